"""What the notebooks import: one concept a file, named for it. Nothing here imports a notebook or a check."""

from utils.course.console import make_output_safe

make_output_safe()
