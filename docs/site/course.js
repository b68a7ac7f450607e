// One switch that unfolds every hint, answer and reading of the page, and remembers it for the next page.
(function () {
  "use strict";
  const KEY = "course-unfolded";
  const remembered = () => { try { return localStorage.getItem(KEY) === "yes"; } catch { return false; } };
  const remember = (open) => { try { localStorage.setItem(KEY, open ? "yes" : "no"); } catch { /* a page that may not */ } };

  // What is wider than the page can be pushed sideways with the keyboard, too.
  window.addEventListener("load", () => {
    document.querySelectorAll(".table-scroll, .formula, figure.plot, figure.attention").forEach((part) => {
      if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    });
  });

  document.addEventListener("DOMContentLoaded", () => {
    const folded = document.querySelectorAll("details.folded");
    const place = document.querySelector(".article-header-buttons") || document.querySelector("main");
    if (!folded.length || !place) return;
    const button = document.createElement("button");
    button.id = "unfold-all";
    button.type = "button";
    const show = (open) => {
      folded.forEach((part) => { part.open = open; });
      button.setAttribute("aria-pressed", String(open));
      button.textContent = open ? "Fold hints and answers" : "Unfold hints and answers";
    };
    show(remembered());
    button.addEventListener("click", () => {
      const open = button.getAttribute("aria-pressed") !== "true";
      remember(open);
      show(open);
    });
    place.prepend(button);
    // A link to something folded unfolds it.
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let part = target && target.closest("details"); part; part = part.parentElement.closest("details")) part.open = true;
  });
})();
