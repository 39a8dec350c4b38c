"""The config of an experiment as typed classes: one class for each kind of entry."""
