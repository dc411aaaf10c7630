"""Storage in S3, or in any service that speaks its protocol."""

import base64
import contextlib
import hashlib
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as NoAnswer  # unrelated to the builtin

from workers.errors import ObjectMissing, StorageError, StorageUnavailable, WhisperfleetError
from workers.storage.local import arriving
from workers.storage.protocol import checked_doomed, checked_key, checked_prefix

log = logging.getLogger(__name__)

_PIECE_BYTES = 8 << 20  # of a multipart upload; S3 asks for at least 5 MiB
_MULTIPART_FROM_BYTES = 16 << 20
_DELETE_AT_ONCE = 1000  # S3's limit for one DeleteObjects
_CONNECT_SECONDS = 5
_READ_SECONDS = 30
_ATTEMPTS = 3  # per call, with the standard mode's backoff: an absent service is known after some 20 s at most
_SHA256 = "sha256"  # key of the metadata field

_NO_RIGHTS = {"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "401", "Forbidden", "Unauthorized"}
_BAD_CREDENTIALS = {
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthFailure",
    "InvalidClientTokenId", "AuthorizationHeaderMalformed", "RequestExpired", "TokenRefreshRequired",
}  # fmt: skip
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "EntityTooLarge"}
_PASSING = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "BadDigest", "RequestTimeTooSkewed",
            "OperationAborted", "IncompleteBody", "NoSuchUpload"}  # fmt: skip


class S3Storage:
    """A bucket, or what lies below a prefix in it.

    Integrity: each body goes out with Content-MD5, which every S3 service has always checked, and with its
    SHA-256 in the object's metadata, which reading verifies. The newer checksum headers are left off,
    because services that do not know them refuse the request.
    """

    def __init__(self, bucket: str, prefix: str, endpoint: str | None) -> None:
        """Credentials and region come from where boto3 looks for them: environment, profile, or the machine's role."""
        self.address = f"s3://{bucket}/{prefix}".rstrip("/")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._endpoint = endpoint
        self._others: dict[str | None, Any] = {}
        with self._translated(""):
            self._client = _client(endpoint)
        self._transfer = TransferConfig(
            multipart_threshold=_MULTIPART_FROM_BYTES, multipart_chunksize=_PIECE_BYTES, max_concurrency=4
        )

    def put_bytes(self, key: str, data: bytes) -> None:
        with self._translated(key):
            self._client.put_object(
                Bucket=self._bucket,
                Key=self._name(key),
                Body=data,
                Metadata={_SHA256: hashlib.sha256(data).hexdigest()},
            )

    def put_file(self, key: str, path: Path) -> None:
        name = self._name(key)
        with path.open("rb") as file:
            metadata = {_SHA256: hashlib.file_digest(file, "sha256").hexdigest()}
            file.seek(0)
            with self._translated(key):
                self._client.upload_fileobj(
                    file, self._bucket, name, ExtraArgs={"Metadata": metadata}, Config=self._transfer
                )

    def get_bytes(self, key: str) -> bytes:
        with self._translated(key):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._name(key))
            with contextlib.closing(answer["Body"]) as body:
                data: bytes = body.read()
        self._verify(key, hashlib.sha256(data).hexdigest(), answer)
        return data

    def get_file(self, key: str, path: Path) -> None:
        with self._translated(key):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._name(key))
            digest = hashlib.sha256()
            with contextlib.closing(answer["Body"]) as body, arriving(path) as file:
                for piece in body.iter_chunks(1 << 20):
                    digest.update(piece)
                    file.write(piece)
                self._verify(key, digest.hexdigest(), answer)

    def opened(self, key: str) -> "tuple[int, S3Object]":
        """How many bytes the object has, and it, to be read piece by piece; whoever reads it compares no checksum."""
        with self._translated(key):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._name(key))
        return int(answer["ContentLength"]), S3Object(answer["Body"], lambda: self._translated(key))

    def exists(self, key: str) -> bool:
        try:
            with self._translated(key):
                self._client.head_object(Bucket=self._bucket, Key=self._name(key))
        except ObjectMissing:
            return False
        return True

    def keys(self, prefix: str) -> Iterator[str]:
        return iter(sorted(self._listed(checked_prefix(prefix))))  # S3 promises the order, its imitators do not all

    def delete(self, prefix: str) -> int:
        doomed = self._listed(checked_doomed(prefix))
        self._discard([self._prefix + key for key in doomed])
        if prefix.endswith("/"):
            self._abort_uploads(prefix)
        return len(doomed)

    def discard(self, keys: Iterable[str]) -> None:
        self._discard([self._name(key) for key in keys])

    def url(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._name(key)}"

    def presigned(self, key: str, seconds: int, endpoint: str | None = None) -> str:
        """An address from which anybody can read this one object for that long; asks no service.

        endpoint: where others reach the service, if not where this program does. The name of the host is signed too.
        """
        with self._translated(key):
            client = self._client if endpoint in (None, self._endpoint) else self._outside(endpoint)
            address: str = client.generate_presigned_url(
                "get_object", Params={"Bucket": self._bucket, "Key": self._name(key)}, ExpiresIn=seconds
            )
        return address

    def _outside(self, endpoint: str | None) -> Any:
        """A client for another endpoint, kept: making one takes a tenth of a second."""
        if self._others.get(endpoint) is None:
            self._others[endpoint] = _client(endpoint)
        return self._others[endpoint]

    def check_writable(self, needed_bytes: int = 0) -> None:
        probe = f"probe-{uuid.uuid4().hex}"
        self.put_bytes(probe, b"whisperfleet")
        self.delete(probe)

    def _name(self, key: str) -> str:
        return self._prefix + checked_key(key)

    def _listed(self, prefix: str) -> list[str]:
        with self._translated(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            return [item["Key"][len(self._prefix) :] for page in pages for item in page.get("Contents", ())]

    def _discard(self, names: Sequence[str]) -> None:
        for start in range(0, len(names), _DELETE_AT_ONCE):
            objects = [{"Key": name} for name in names[start : start + _DELETE_AT_ONCE]]
            with self._translated(names[start]):
                answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
            if answer.get("Errors"):
                first = answer["Errors"][0]
                raise self._refusal(first["Key"], first.get("Code", ""), 200, first.get("Message", ""))

    def _abort_uploads(self, prefix: str) -> None:
        """Pieces of interrupted uploads cost money and no listing shows them."""
        try:
            with self._translated(prefix):
                pages = self._client.get_paginator("list_multipart_uploads").paginate(
                    Bucket=self._bucket, Prefix=self._prefix + prefix
                )
                for upload in [upload for page in pages for upload in page.get("Uploads", ())]:
                    self._client.abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
        except WhisperfleetError as error:
            # Not every service has the call and not every policy grants it; the objects themselves are gone.
            log.warning("Interrupted uploads below %s%s may remain: %s", self._prefix, prefix, error)

    def _verify(self, key: str, found: str, answer: dict[str, Any]) -> None:
        """Objects that others copied here may have lost their metadata: those pass unverified."""
        wanted = answer.get("Metadata", {}).get(_SHA256)
        if wanted is not None and wanted != found:
            raise StorageUnavailable(f"{self.url(key)} did not arrive as it was written: its SHA-256 differs.")

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Turn boto's errors into ours, naming the bucket."""
        try:
            yield
        except ClientError as error:
            details = error.response.get("Error", {})
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            raise self._refusal(key, str(details.get("Code", "")), status, details.get("Message", "")) from error
        except (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, TokenRetrievalError) as error:
            raise StorageError(
                f"No credentials for {self.address}{self._at()}: set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, where this program and its workers run."
            ) from error
        except ProfileNotFound as error:
            raise StorageError(f"Cannot use {self.address}: {error}. Check AWS_PROFILE.") from error
        except (HTTPClientError, NoAnswer, IncompleteReadError) as error:
            raise StorageUnavailable(f"{self.address}{self._at()} did not answer, or not whole: {error}") from error
        except BotoCoreError as error:
            raise StorageError(f"Cannot use {self.address}{self._at()}: {error}") from error

    def _refusal(self, key: str, code: str, status: int, message: str) -> WhisperfleetError:
        where = f"the bucket '{self._bucket}'{self._at()}"
        if code == "NoSuchBucket":
            return StorageError(f"There is no bucket '{self._bucket}'{self._at()}: create it, or name another.")
        if code in ("NoSuchKey", "404") or (status == 404 and code != "NoSuchUpload"):
            return ObjectMissing(f"'{key}' is not in {where}.")
        if code in _BAD_CREDENTIALS:
            return StorageError(f"The credentials for {where} are not accepted ({code}): check the AWS_… settings.")
        if code in _NO_RIGHTS or status in (401, 403):
            return StorageError(
                f"No rights for '{key}' in {where}: its policy must allow to list, read, write and delete objects."
            )
        if code in _FULL or status == 507:
            return StorageError(f"No space is left in {where} ({code}): free some, or use another.")
        if code in _PASSING or status >= 500 or status in (408, 409, 429):
            return StorageUnavailable(f"{self.address}{self._at()} could not answer now: {message or code}.")
        return StorageError(f"Cannot use '{key}' in {where}: {message or code}.")

    def _at(self) -> str:
        return f" at {self._endpoint}" if self._endpoint else ""


class S3Object:
    """An object on its way here; close it. `read` raises as S3Storage does."""

    def __init__(self, body: Any, translated: Callable[[], AbstractContextManager[None]]) -> None:
        self._body = body
        self._translated = translated

    def read(self, size: int, /) -> bytes:
        with self._translated():
            piece: bytes = self._body.read(size)
            return piece

    def close(self) -> None:
        self._body.close()


def _client(endpoint: str | None) -> Any:
    session = boto3.session.Session()
    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        signature_version="s3v4",  # else presigned addresses are of an older kind, which newer regions refuse
        # Few own services have a DNS name for every bucket.
        s3={"addressing_style": "path"} if endpoint else {},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    region = session.region_name or "us-east-1"  # signatures need one; services other than AWS take any
    client = session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    for call in ("PutObject", "UploadPart", "DeleteObjects"):
        client.meta.events.register(f"before-call.s3.{call}", _add_content_md5)
    return client


def _add_content_md5(params: dict[str, Any], **_: Any) -> None:
    """boto3 stopped sending it in 1.36, even for DeleteObjects, where many services insist on it."""
    body = params["body"]
    if isinstance(body, bytes | bytearray):
        digest = hashlib.md5(body, usedforsecurity=False)
    else:
        start = body.tell()
        digest = hashlib.md5(usedforsecurity=False)
        while piece := body.read(1 << 20):
            digest.update(piece)
        body.seek(start)
    params["headers"]["Content-MD5"] = base64.b64encode(digest.digest()).decode()
