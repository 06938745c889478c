"""What a stage of one data set gathers and comes to, and where its results go. Needs no trainer."""
