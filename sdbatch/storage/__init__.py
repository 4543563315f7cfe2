"""Files of any file system: opened, listed, written whole, retried; and Parquet.

store.py      every path that sdbatch reads or writes    connection.py      one file system: errors, retries
listing.py    files as stores list them                  retried_file.py    a file whose reads are retried
storage_options.py  options of stores, checked           storage_errors.py  what file systems raise
addresses.py  what an address names                      local_files.py     files whole or not at all
parquet.py    Parquet files, read and written            claims.py          who removes what is replaced
"""
