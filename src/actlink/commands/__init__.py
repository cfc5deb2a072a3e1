"""The commands of the command line, one file each. Law: no logic of their own; they join client, serving and evaluation."""
