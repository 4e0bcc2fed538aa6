"""scripts/s3_flow.py ENDPOINT NAME MIB: boto3's part of scripts/s3-flow. Credentials come from the environment."""

import hashlib
import io
import json
import os
import sys
import time
import urllib.error
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.client import Config
from botocore.exceptions import ClientError

endpoint, name, mib = sys.argv[1], sys.argv[2], int(sys.argv[3])
path_style = {"addressing_style": "path"}


def client(**more):
    config = Config(s3=path_style, retries={"max_attempts": 1}, read_timeout=300, **more)
    return boto3.client("s3", endpoint_url=endpoint, config=config)


s3 = client()


def ok(what):
    print(f"ok   {what}", flush=True)


def refused(code, call, **args):
    try:
        call(**args)
    except ClientError as e:
        got = e.response["Error"]["Code"]
        assert got == code, f"{code} expected, {got} came"
        return
    raise AssertionError(f"{code} expected, but it succeeded")


class Pattern(io.RawIOBase):
    """A file of `size` bytes that are told from each other, without its memory."""

    BLOCK = hashlib.sha256(b"caelum").digest() * 2048  # 64 KiB

    def __init__(self, size):
        self.size, self.at = size, 0

    def block(self, i):
        return i.to_bytes(8, "big") + self.BLOCK[8:]

    def readable(self):
        return True

    def seekable(self):
        return True

    def tell(self):
        return self.at

    def seek(self, to, whence=0):
        self.at = to + (0, self.at, self.size)[whence]
        return self.at

    def read(self, n=-1):
        n = self.size - self.at if n is None or n < 0 else min(n, self.size - self.at)
        out = bytearray()
        while len(out) < n:
            i, skip = divmod(self.at + len(out), 65536)
            out += self.block(i)[skip : skip + n - len(out)]
        self.at += n
        return bytes(out)


def large(bucket):
    size = mib << 20
    config = TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=16 << 20, max_concurrency=4)
    began = time.monotonic()
    s3.upload_fileobj(Pattern(size), bucket, "large", Config=config)
    up = time.monotonic() - began
    head = s3.head_object(Bucket=bucket, Key="large")
    parts = -(-size // (16 << 20))
    assert head["ContentLength"] == size and head["ETag"].endswith(f'-{parts}"'), head
    began = time.monotonic()
    body, there = s3.get_object(Bucket=bucket, Key="large")["Body"], Pattern(size)
    for chunk in iter(lambda: body.read(1 << 20), b""):
        assert chunk == there.read(len(chunk)), f"bytes differ near {there.at}"
    assert there.at == size
    down = time.monotonic() - began
    at = size // 2 - 3
    part = s3.get_object(Bucket=bucket, Key="large", Range=f"bytes={at}-{at + 99}")["Body"].read()
    there.seek(at)
    assert part == there.read(100)
    copied = s3.create_multipart_upload(Bucket=bucket, Key="copied")["UploadId"]
    source = {"Bucket": bucket, "Key": "large"}
    args = {"Bucket": bucket, "Key": "copied", "UploadId": copied}
    edge = min(size, 6 << 20) - 1
    r = s3.upload_part_copy(CopySource=source, CopySourceRange=f"bytes=0-{edge}", PartNumber=1, **args)
    done = {"Parts": [{"PartNumber": 1, "ETag": r["CopyPartResult"]["ETag"]}]}
    s3.complete_multipart_upload(MultipartUpload=done, **args)
    again = s3.complete_multipart_upload(MultipartUpload=done, **args)
    assert again["ETag"].endswith('-1"')
    ok(f"multipart of {mib} MiB in {parts} parts: {mib / up:.0f} MiB/s up, {mib / down:.0f} MiB/s down, range, part copy, completed twice")


def uploads(bucket):
    up = s3.create_multipart_upload(Bucket=bucket, Key="u")["UploadId"]
    args = {"Bucket": bucket, "Key": "u", "UploadId": up}
    tags = [s3.upload_part(PartNumber=n, Body=b"small", **args)["ETag"] for n in (1, 2)]
    parts = [{"PartNumber": n, "ETag": t} for n, t in zip((1, 2), tags)]
    refused("EntityTooSmall", s3.complete_multipart_upload, MultipartUpload={"Parts": parts}, **args)
    refused("InvalidPartOrder", s3.complete_multipart_upload, MultipartUpload={"Parts": parts[::-1]}, **args)
    wrong = [{"PartNumber": 7, "ETag": tags[0]}]
    refused("InvalidPart", s3.complete_multipart_upload, MultipartUpload={"Parts": wrong}, **args)
    assert [p["PartNumber"] for p in s3.list_parts(**args)["Parts"]] == [1, 2]
    assert [u["UploadId"] for u in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [up]
    s3.abort_multipart_upload(**args)
    refused("NoSuchUpload", s3.list_parts, **args)
    ok("uploads: small parts, order, missing parts, listings, abort")


def presigned(bucket):
    for version in ("s3v4", "s3"):
        c = client(signature_version=version)
        url = c.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "pre signed"}, ExpiresIn=60)
        # Version 2 covers the content type, which urllib would make up.
        urllib.request.urlopen(urllib.request.Request(url, data=b"by url", method="PUT", headers={"content-type": ""}))
        url = c.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "pre signed"}, ExpiresIn=60)
        assert urllib.request.urlopen(url).read() == b"by url"
        try:
            urllib.request.urlopen(url.replace("pre%20signed", "other"))
            raise AssertionError("another key by the same signature")
        except urllib.error.HTTPError as e:
            assert e.code == 403, e.code
    url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "stolen"}, ExpiresIn=60)
    evil = urllib.request.Request(url, data=b"", method="PUT", headers={"x-amz-copy-source": f"/{bucket}/pre signed"})
    try:
        urllib.request.urlopen(evil)
        raise AssertionError("an unsigned header was obeyed")
    except urllib.error.HTTPError as e:
        assert e.code == 403, e.code
    ok("presigned URLs of both versions; a header that is not signed is refused")


def objects(bucket):
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        r = s3.put_object(Bucket=bucket, Key="sum", Body=b"data", ChecksumAlgorithm=algorithm)
        head = s3.head_object(Bucket=bucket, Key="sum", ChecksumMode="ENABLED")
        assert head[f"Checksum{algorithm}"] == r[f"Checksum{algorithm}"]
    s3.put_object(Bucket=bucket, Key="once", Body=b"1", IfNoneMatch="*", Metadata={"a": "b"}, Tagging="t=1")
    refused("PreconditionFailed", s3.put_object, Bucket=bucket, Key="once", Body=b"2", IfNoneMatch="*")
    assert s3.get_object_tagging(Bucket=bucket, Key="once")["TagSet"] == [{"Key": "t", "Value": "1"}]
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "once"})
    assert s3.head_object(Bucket=bucket, Key="copy")["Metadata"] == {"a": "b"}
    a = s3.get_object_attributes(Bucket=bucket, Key="once", ObjectAttributes=["ETag", "ObjectSize"])
    assert a["ObjectSize"] == 1
    refused("NoSuchKey", s3.get_object, Bucket=bucket, Key="none")
    refused("404", s3.head_object, Bucket=bucket, Key="none")
    keys = [f"list/{i:04}/ü&<" for i in range(1200)]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="list/")
    assert [o["Key"] for p in pages for o in p.get("Contents", [])] == keys
    pages = s3.get_paginator("list_objects").paginate(Bucket=bucket, Prefix="list/", Delimiter="/", PaginationConfig={"PageSize": 500})
    assert sum(len(p.get("CommonPrefixes", [])) for p in pages) == 1200
    for i in (0, 1000):
        r = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": k} for k in keys[i : i + 1000]]})
        assert "Errors" not in r and len(r["Deleted"]) == len(keys[i : i + 1000])
    ok("objects: checksums, conditional writes, tags, copies, attributes, listings of 1,200, deletes of 1,000")


def versions(bucket):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    ids = [s3.put_object(Bucket=bucket, Key="v", Body=str(i).encode())["VersionId"] for i in range(3)]
    assert s3.get_object(Bucket=bucket, Key="v", VersionId=ids[0])["Body"].read() == b"0"
    gone = s3.delete_object(Bucket=bucket, Key="v")
    assert gone["DeleteMarker"]
    refused("NoSuchKey", s3.get_object, Bucket=bucket, Key="v")
    r = s3.list_object_versions(Bucket=bucket, Prefix="v")
    assert [v["VersionId"] for v in r["Versions"]] == ids[::-1] and len(r["DeleteMarkers"]) == 1
    s3.delete_object(Bucket=bucket, Key="v", VersionId=gone["VersionId"])
    assert s3.get_object(Bucket=bucket, Key="v")["Body"].read() == b"2"
    s3.delete_object(Bucket=bucket, Key="v", VersionId=ids[2])
    assert s3.get_object(Bucket=bucket, Key="v")["Body"].read() == b"1"
    ok("versions: kept, listed, delete markers, older ones restored")


def settings(bucket):
    refused("NoSuchBucketPolicy", s3.get_bucket_policy, Bucket=bucket)
    policy = {"Version": "2012-10-17", "Statement": [
        {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": f"arn:aws:s3:::{bucket}/keep/*"}]}
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    s3.put_object(Bucket=bucket, Key="keep/a", Body=b"x")
    refused("AccessDenied", s3.delete_object, Bucket=bucket, Key="keep/a")
    s3.delete_bucket_policy(Bucket=bucket)
    s3.delete_object(Bucket=bucket, Key="keep/a")
    rule = {"ID": "r", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 1}}
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    assert s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"][0]["ID"] == "r"
    cors = {"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["https://a.example"]}]}
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration=cors)
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"][0]["AllowedMethods"] == ["GET"]
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "k", "Value": "v"}]})
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == [{"Key": "k", "Value": "v"}]
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert len(s3.get_bucket_acl(Bucket=bucket)["Grants"]) == 2
    s3.put_bucket_website(Bucket=bucket, WebsiteConfiguration={"IndexDocument": {"Suffix": "index.html"}})
    assert s3.get_bucket_website(Bucket=bucket)["IndexDocument"]["Suffix"] == "index.html"
    ok("settings: policy, lifecycle, CORS, tags, access list, web site")


def locks(bucket):
    s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    v = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["VersionId"]
    s3.put_object_legal_hold(Bucket=bucket, Key="k", VersionId=v, LegalHold={"Status": "ON"})
    refused("AccessDenied", s3.delete_object, Bucket=bucket, Key="k", VersionId=v)
    s3.put_object_legal_hold(Bucket=bucket, Key="k", VersionId=v, LegalHold={"Status": "OFF"})
    until = time.time() + 3600
    s3.put_object_retention(Bucket=bucket, Key="k", VersionId=v, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until})
    refused("AccessDenied", s3.delete_object, Bucket=bucket, Key="k", VersionId=v)
    s3.delete_object(Bucket=bucket, Key="k", VersionId=v, BypassGovernanceRetention=True)
    empty(bucket)
    ok("locks: legal hold, retention, bypass")


def empty(bucket):
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for o in page.get("Versions", []) + page.get("DeleteMarkers", []):
            s3.delete_object(Bucket=bucket, Key=o["Key"], VersionId=o["VersionId"])
    s3.delete_bucket(Bucket=bucket)


def main():
    refused("InvalidAccessKeyId", boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="x", aws_secret_access_key="y",
                                              config=Config(s3=path_style)).list_buckets)
    refused("SignatureDoesNotMatch", boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
                                                  aws_secret_access_key="y", config=Config(s3=path_style)).list_buckets)
    bucket = f"{name}-boto"
    s3.create_bucket(Bucket=bucket)
    refused("BucketAlreadyOwnedByYou", s3.create_bucket, Bucket=bucket)
    assert bucket in [b["Name"] for b in s3.list_buckets()["Buckets"]]
    objects(bucket)
    presigned(bucket)
    uploads(bucket)
    large(bucket)
    settings(bucket)
    refused("BucketNotEmpty", s3.delete_bucket, Bucket=bucket)
    versions(bucket)
    empty(bucket)
    locks(f"{name}-lock")
    refused("404", s3.head_bucket, Bucket=bucket)


main()
