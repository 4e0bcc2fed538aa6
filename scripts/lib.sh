# shellcheck shell=bash
# Helpers of ./up and ./test.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${CAELUM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/caelum}

say() { printf '== %s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# wanted FILE...: package names of the lists
wanted() { sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$@"; }

missing() {
    local p
    for p in "$@"; do
        [[ $(dpkg-query -W -f='${Status}' "$p" 2>/dev/null) == *' installed' ]] || echo "$p"
    done
}

# install FILE...: installs what is missing from Debian, or says how
install() {
    command -v dpkg-query >/dev/null || die "this is not a Debian system; install by hand: $(wanted "$@" | paste -sd' ')"
    local lack
    mapfile -t lack < <(missing $(wanted "$@"))
    ((${#lack[@]})) || return 0
    [[ $(id -u) == 0 ]] || die "missing packages; as root: apt-get install ${lack[*]}"
    say "installing ${lack[*]}"
    apt-get update -qq || say "apt-get update failed; trying with the lists at hand"
    local i
    for i in "${!lack[@]}"; do
        # A newer qemu-utils of another release keeps qemu-system out: take both from one release.
        if [[ ${lack[i]} == qemu-system-x86 ]]; then
            local v
            v=$(apt-cache madison qemu-system-x86 | awk '{print $3; exit}')
            lack[i]="qemu-system-x86=$v"
            lack+=("qemu-utils=$v")
        fi
    done
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --allow-downgrades "${lack[@]}" >"$cache/apt.log" 2>&1 ||
        { tail -n 20 "$cache/apt.log" >&2; die "apt-get could not install ${lack[*]}"; }
}

need_cargo() {
    command -v cargo >/dev/null && return
    die "the Rust toolchain is missing: install rustup (https://rustup.rs, or Debian's rustup package) and run 'rustup default stable'"
}

# guest_image: builds the guest image once per version of its scripts; prints its path
guest_image() {
    local sum
    sum=$(cd "$root/guest" && cat build-image $(git ls-files . 2>/dev/null || true) 2>/dev/null | sha256sum | cut -c1-16)
    local image=$cache/caelum-guest-$sum.qcow2
    if [[ ! -s $image ]]; then
        say "building the guest image" >&2
        CAELUM_CACHE=$cache "$root/guest/build-image" "$image.new" >"$cache/guest.log" 2>&1 ||
            { tail -n 20 "$cache/guest.log" >&2; die "the guest image could not be built"; }
        mv "$image.new" "$image"
    fi
    echo "$image"
}

mkdir -p "$cache"
