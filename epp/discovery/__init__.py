"""Where endpoints come from: a command line flag or a file. Each source turns what it reads into calls of the datastore."""
