"""Places where coordinator and hospitals leave bytes for each other, each under a name that is written once."""
