#!/bin/sh
# Make the secrets that are not there yet: `sh provisioning/deploy/secrets.sh [FOLDER]`, by default the folder secrets
# beside docker-compose.yml. What is there stays.
#
# Nobody else may enter the folder. The files in it are readable to all, because a container that does not run as root
# sees the file alone, with its owner and mode of this machine.
set -eu
folder=${1:-$(cd "$(dirname "$0")/../.." && pwd)/secrets}
mkdir -p "$folder"
chmod 700 "$folder"

random() { # $1 bytes, as hexadecimal digits
    od -An -N "$1" -tx1 /dev/urandom | tr -d ' \n'
}

make() { # file $1 with the content $2, whole or not at all
    if [ -s "$folder/$1" ]; then
        echo "$1: there already"
    else
        printf '%s' "$2" >"$folder/$1.new"
        chmod 644 "$folder/$1.new"
        mv "$folder/$1.new" "$folder/$1"
        echo "$1: made"
    fi
}

make postgres_password "$(random 24)"
make gateway_admin_key "$(random 32)"
make gateway_signing_key "$(random 32)"
make grafana_password "$(random 12)"
make s3_credentials "[default]
aws_access_key_id = $(random 10)
aws_secret_access_key = $(random 20)
"
if [ ! -s "$folder/vast_key" ]; then
    echo "vast_key: missing; write your Vast.ai API key into $folder/vast_key before you start the profile fleet"
fi
