"""What a widget shows at first stands in its place where there is no kernel."""

import nbformat

from utils.course.outputs import WIDGET, keep_what_widgets_show

STATE = {
    "box": {"_model_name": "VBoxModel", "children": ["IPY_MODEL_menu", "IPY_MODEL_inner"]},
    "menu": {"_model_name": "DropdownModel", "value": "no"},
    "inner": {"_model_name": "HBoxModel", "children": ["IPY_MODEL_one", "IPY_MODEL_two"]},
    "one": {"_model_name": "HTMLModel", "value": "<p>3 of 9 heads</p>"},
    "two": {"_model_name": "HTMLModel", "value": "<b>L9H6</b>"},
}


def notebook_with(model, text="VBox()"):
    output = nbformat.v4.new_output("display_data", {WIDGET: {"model_id": model}, "text/plain": text})
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output])])


def test_the_html_of_a_widget_and_of_its_children_is_kept_in_order():
    notebook = notebook_with("box")
    keep_what_widgets_show(notebook, STATE)
    assert notebook.cells[0].outputs[0].data["text/html"] == "<p>3 of 9 heads</p><b>L9H6</b>"


def test_nothing_is_added_where_there_is_nothing_to_show():
    for model, text in (("menu", "Dropdown()"), ("unknown", "VBox()"), ("box", "  0%|          | 0/9")):
        notebook = notebook_with(model, text)
        keep_what_widgets_show(notebook, STATE)
        assert "text/html" not in notebook.cells[0].outputs[0].data
