#!/bin/sh
# Start the object store with the keys that its clients have, so that there is one secret and not two that must agree.
# No key is an argument: whoever lists processes sees arguments.
set -eu

value() {
    sed -n "s/^[[:space:]]*$1[[:space:]]*=[[:space:]]*//p" "$AWS_SHARED_CREDENTIALS_FILE" | head -n 1
}

ROOT_ACCESS_KEY_ID=$(value aws_access_key_id)
ROOT_SECRET_ACCESS_KEY=$(value aws_secret_access_key)
if [ -z "$ROOT_ACCESS_KEY_ID" ] || [ -z "$ROOT_SECRET_ACCESS_KEY" ]; then
    echo "$AWS_SHARED_CREDENTIALS_FILE has no aws_access_key_id or no aws_secret_access_key" >&2
    exit 1
fi
export ROOT_ACCESS_KEY_ID ROOT_SECRET_ACCESS_KEY

mkdir -p "$VGW_FOLDER/$VGW_BUCKET" # a folder there is a bucket
exec versitygw posix "$VGW_FOLDER"
