"""DynamicViT and DynamicSwin: predictors choose the patches that go on."""
