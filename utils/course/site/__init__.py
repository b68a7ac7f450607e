"""The course's website, from the executed solution notebooks, with Sphinx. It opens from the disk, without any network."""
