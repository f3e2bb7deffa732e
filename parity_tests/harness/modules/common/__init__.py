"""What a comparison of modules needs of no framework, so that either can be recorded without the other."""
