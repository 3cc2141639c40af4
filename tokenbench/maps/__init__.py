"""Token maps as plain arrays: following patches through models, numbers about them, files."""
