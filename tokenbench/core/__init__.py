"""What every method and backbone is made of: tokens and their verbs, attention, the block and its reducers."""
