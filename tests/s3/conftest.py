"""The S3 server's fixtures, for the tests in this folder."""

from tests.s3.server import bucket, s3_server

__all__ = ["bucket", "s3_server"]
