"""A real S3 server on loopback, moto's, with one bucket and one user, whose key it asks for."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import httpx

NO_OTHER_CREDENTIALS = {
    "AWS_EC2_METADATA_DISABLED": "true",  # else botocore asks an address that is not ours to ask
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "AWS_DEFAULT_REGION": "us-east-1",
}
"""What keeps a client from finding more than it is given."""


@dataclass(frozen=True)
class Bucket:
    """Where it is, and what its user needs."""

    endpoint: str
    name: str
    key_id: str
    secret: str
    process: "subprocess.Popen[bytes]"

    @property
    def keys(self) -> dict[str, str]:
        """For the environment of a client."""
        named = {"AWS_ACCESS_KEY_ID": self.key_id, "AWS_SECRET_ACCESS_KEY": self.secret}
        return {**NO_OTHER_CREDENTIALS, **named}


@contextmanager
def s3_server(folder: Path, bucket: str = "wrn-results") -> Iterator[Bucket]:
    """The server with its log in `folder`, until the block ends or the caller has ended its process."""
    with (folder / "s3.log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
            stdout=log,
            stderr=log,
            env={**os.environ, **NO_OTHER_CREDENTIALS},
        )
    try:
        endpoint = _address(folder / "s3.log", running)
        before = {"endpoint_url": endpoint, "region_name": "us-east-1"}
        before |= {"aws_access_key_id": "anybody", "aws_secret_access_key": "anything"}
        iam, s3 = (boto3.client(service, **before) for service in ("iam", "s3"))
        iam.create_user(UserName="worker")
        everything = '{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}'
        iam.put_user_policy(UserName="worker", PolicyName="bucket", PolicyDocument=everything)
        key = iam.create_access_key(UserName="worker")["AccessKey"]
        s3.create_bucket(Bucket=bucket)
        assert httpx.post(f"{endpoint}/moto-api/reset-auth", content=b"0").is_success  # from now on it asks
        yield Bucket(endpoint, bucket, key["AccessKeyId"], key["SecretAccessKey"], running)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()


def _address(log: Path, process: "subprocess.Popen[bytes]") -> str:
    """Where it says that it answers, when it does; it is up to pytest's time limit when it never does."""
    while process.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"moto ended with {process.returncode}: {log.read_text()}")
