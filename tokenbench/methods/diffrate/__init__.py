"""DiffRate: how many tokens each block drops and merges is found by gradients."""
