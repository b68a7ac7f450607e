"""The press: how the course is set up, started, checked and shipped. No science."""
