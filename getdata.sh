#!/usr/bin/env bash
# Fetches data sets into data/. Each data set is a function below; `fetch` and its helpers serve them all.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
data=${STN_DATA:-$root/data}
from=
scratch=

usage() {
    cat <<END
Usage: getdata.sh [--from FILE_OR_FOLDER] [ptb]

Puts data sets into $data:

  ptb    Penn Treebank as prepared by Tomas Mikolov (35 MB to download, 6 MB unpacked), into penn/ as
         train.txt, valid.txt and test.txt

An interrupted download resumes when run again; files already there are verified and kept.

  --from PATH   download nothing: take simple-examples.tgz, or a folder that holds ptb.train.txt,
                ptb.valid.txt and ptb.test.txt (or train.txt, ...), possibly in data/ or simple-examples/data/
  --help        show this

Environment:
  PTB_URL       the web folder that holds simple-examples.tgz (now $ptb_url)
  STN_DATA      another folder than data/
END
}

die() {
    echo "getdata.sh: $1" >&2
    exit "${2:-1}"
}

misused() { die "$1 (see getdata.sh --help)" 2; }

# ---- helpers

need() { command -v "$1" >/dev/null || die "$1 is not installed: install it and run again"; }

sha256() { # FILE: its digest
    if command -v sha256sum >/dev/null; then sha256sum <"$1"; else shasum -a 256 <"$1"; fi | cut -d' ' -f1
}

has_digest() { [[ -f $1 && $(sha256 "$1") == "$2" ]]; } # FILE DIGEST

make_scratch() { # a folder beside the final ones, so that moving a file into place is atomic
    mkdir -p "$data" 2>/dev/null || die "cannot create $data: make its parent writable, or set STN_DATA"
    scratch=$(mktemp -d "$data/.getdata.XXXXXX" 2>/dev/null) ||
        die "cannot write into $data: make it writable, or set STN_DATA"
}

remove_scratch() { if [[ -n $scratch ]]; then rm -rf "$scratch"; fi; }

# One attempt at URL, resuming PART. Prints why it failed: nothing, 'retry', 'restart' or a reason to give up.
attempt() { # URL PART
    local code=0 status
    if command -v curl >/dev/null; then
        status=$(curl --fail --silent --location --connect-timeout 20 --speed-limit 1 --speed-time 60 \
            --continue-at - --output "$2" --write-out '%{http_code}' "$1" 2>/dev/null) || code=$?
        case $code:$status in
            0:*) ;;
            33:* | 36:* | 22:416) echo restart ;; # the server cannot resume, or has less than we hold
            22:5*) echo retry ;;
            22:*) echo "the server answered $status" ;;
            23:*) echo "cannot write $2: free some disk space" ;;
            1:* | 3:*) echo "not a web address" ;;
            *) echo retry ;;
        esac
    else
        wget --quiet --continue --timeout=60 --tries=1 --output-document="$2" "$1" 2>/dev/null || code=$?
        case $code in
            0) ;;
            3) echo "cannot write $2: free some disk space" ;;
            8) echo "the server refused it" ;;
            *) echo retry ;;
        esac
    fi
}

fetch() { # URL PART
    local try problem=
    command -v curl >/dev/null || command -v wget >/dev/null ||
        die "neither curl nor wget is installed: install one, or use --from with an archive that you have"
    for try in 1 2 3; do
        problem=$(attempt "$1" "$2")
        case $problem in
            '') return ;;
            retry) if ((try < 3)); then sleep $((2 * try)); fi ;;
            restart) rm -f "$2" ;;
            *) die "cannot download $1: $problem" ;;
        esac
    done
    if [[ -s $2 ]]; then
        die "the download of $1 was interrupted: run again to resume it"
    fi
    rm -f "$2"
    die "cannot reach $1: check the network, or use --from with an archive that you have"
}

# ---- Penn Treebank

ptb_url=${PTB_URL:-http://www.fit.vutbr.cz/~imikolov/rnnlm}
# Digests of train.txt, valid.txt and test.txt. PTB_SHA256 (three, space-separated) is for tests and mirrors.
ptb_published="fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf
    c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2
    dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"
read -r ptb_train ptb_valid ptb_test <<<"$(echo ${PTB_SHA256:-$ptb_published})"

ptb() {
    local penn=$data/penn part=$data/.simple-examples.tgz.part
    if ptb_complete "$penn"; then
        echo "ptb: all there and verified in $penn"
        return
    fi
    make_scratch
    if [[ -d $from ]]; then
        ptb_copy "$from" ||
            die "no ptb.train.txt, ptb.valid.txt and ptb.test.txt in $from: name a folder that holds them"
        ptb_complete "$scratch" || die "wrong checksum: $from does not hold the published Penn Treebank"
    elif [[ -n $from ]]; then
        need tar
        ptb_unpack "$from" || die "$from is damaged or is not simple-examples.tgz: get another copy"
        ptb_complete "$scratch" || die "wrong checksum: $from does not hold the published Penn Treebank"
    else
        need tar
        # A whole archive may lie there still, from a run that was stopped between download and move.
        if ! { [[ -f $part ]] && ptb_unpack "$part" && ptb_complete "$scratch"; }; then
            echo "ptb: downloading $ptb_url/simple-examples.tgz"
            fetch "$ptb_url/simple-examples.tgz" "$part"
            ptb_unpack "$part" || ptb_discard "$part" "the downloaded archive is damaged"
            ptb_complete "$scratch" || ptb_discard "$part" "wrong checksum of the downloaded archive"
        fi
    fi
    ptb_install "$penn"
    rm -f "$part"
    echo "ptb: train.txt, valid.txt and test.txt are in $penn"
}

ptb_complete() { # FOLDER
    has_digest "$1/train.txt" "$ptb_train" &&
        has_digest "$1/valid.txt" "$ptb_valid" &&
        has_digest "$1/test.txt" "$ptb_test"
}

ptb_unpack() { # ARCHIVE: its three files, into scratch; fails if it is damaged or lacks them
    local members member split
    members=$(tar -tzf "$1" 2>/dev/null) || return 1
    for split in train valid test; do
        member=$(grep -E "(^|/)ptb\.$split\.txt$" <<<"$members") || return 1
        tar -xzOf "$1" "${member%%$'\n'*}" 2>/dev/null >"$scratch/$split.txt" ||
            die "cannot unpack $1 into $data: free some disk space and run again"
    done
}

ptb_copy() { # FOLDER: its three files, into scratch; fails if they are not there
    local prefix split
    for prefix in "$1"/{,data/,simple-examples/data/}{ptb.,}; do
        if [[ -f ${prefix}train.txt && -f ${prefix}valid.txt && -f ${prefix}test.txt ]]; then
            for split in train valid test; do
                cp "$prefix$split.txt" "$scratch/$split.txt" 2>/dev/null ||
                    die "cannot copy $prefix$split.txt: check its permissions and the free disk space"
            done
            return
        fi
    done
    return 1
}

ptb_discard() { # PART CAUSE
    rm -f "$1"
    die "$2: removed it; run again to download afresh, or set PTB_URL to another mirror"
}

ptb_install() { # FOLDER: from scratch, file by file, each one whole
    local split
    mkdir -p "$1" 2>/dev/null || die "cannot create $1: move away what is there"
    for split in train valid test; do
        if [[ -f $1/$split.txt ]] && ! cmp -s "$scratch/$split.txt" "$1/$split.txt"; then
            echo "ptb: replacing $1/$split.txt, which was not the published file"
        fi
        [[ ! -d $1/$split.txt ]] && mv -f "$scratch/$split.txt" "$1/$split.txt" 2>/dev/null ||
            die "cannot write $1/$split.txt: move away what is there, or make its folder writable"
    done
}

# ---- the command line

names=
while (($#)); do
    case $1 in
        -h | --help) usage && exit ;;
        --from)
            [[ -n ${2:-} ]] || misused "--from needs a file or a folder"
            from=$2
            shift
            ;;
        -*) misused "unknown argument $1" ;;
        ptb) names="$names $1" ;;
        *) misused "unknown data set $1: there is ptb" ;;
    esac
    shift
done
if [[ -n $from && ! -r $from ]]; then
    die "$from does not exist or cannot be read: name an archive or a folder that you have"
fi
command -v sha256sum >/dev/null || command -v shasum >/dev/null ||
    die "neither sha256sum nor shasum is installed: install one and run again"

trap remove_scratch EXIT
for name in ${names:-ptb}; do
    "$name"
done
