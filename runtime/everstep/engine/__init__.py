"""One worker process: claim, run, commit, beat, sweep. One loop per file, all loops alike."""
