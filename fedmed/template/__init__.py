"""The files of a new workspace: links to those at the top of this repository, so that there is one of each."""
