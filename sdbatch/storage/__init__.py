"""Reads, writes and lists files on any file system, with retries; reads and writes Parquet.

store.py            reads, writes and lists files
connection.py       one file system: errors, retries
listing.py          files as stores list them
retried_file.py     a file whose reads are retried
storage_options.py  checks of storage options
storage_errors.py   classification of file systems' exceptions
addresses.py        parses addresses
local_files.py      atomic writes on local disks
local_copies.py     local copies of remote files
parquet.py          reads and writes Parquet files
held_writes.py      holds writes back until they are committed together
hub_repositories.py the Hugging Face hub as a file system
claims.py           lets one run at a time remove replaced files
"""
