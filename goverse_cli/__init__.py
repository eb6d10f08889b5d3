"""The operators' command line. Talks to nodes through `goverse.admin`; decides nothing itself."""
