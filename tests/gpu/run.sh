#!/usr/bin/env bash
# Tests on a GPU machine that has no .NET and maybe no network:
#   tests/gpu/run.sh pack OUT.tar.xz    here: a self-contained linux-x64 build of the tests (at most 60 MB)
#   ./run.sh test [more options]        there, in the unpacked folder: the ops and the driver layer; a missing card is a failure
# KT_REQUIRE (default: cuda) names what must be there, e.g. amx,cuda. CUDA 12 or 13 must be found as README says: driver, NVRTC, cuBLASLt.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
limit=$((60 * 1000 * 1000))

pack() {
    local out=$1
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    # A restore for one runtime is not what the lock files describe, and must not change them.
    dotnet publish "$here/../KtNotebooks.Tests" -c Release -r linux-x64 --self-contained -o "$folder" \
        -p:NuGetLockFilePath=obj/packages.linux-x64.lock.json -p:RestoreLockedMode=false -p:DebugType=none -p:SatelliteResourceLanguages=en
    cp "${BASH_SOURCE[0]}" "$folder/run.sh"
    git -C "$here" describe --always --dirty >"$folder/COMMIT"
    find "$folder" -name '*.xml' -delete
    tar -C "$folder" -c . | xz -T0 -6 >"$out"
    local bytes
    bytes=$(stat -c %s "$out")
    echo "$out: $((bytes / 1000000)) MB"
    [ "$bytes" -le "$limit" ] || { echo "larger than $((limit / 1000000)) MB" >&2; return 1; }
}

run_tests() {
    export KT_REQUIRE=${KT_REQUIRE:-cuda}
    echo "commit $(cat "$here/COMMIT"), $(date -u +%F), KT_REQUIRE=$KT_REQUIRE"
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || true
    "$here/KtNotebooks.Tests" --filter-namespace 'KtNotebooks.Tests.Ops' --filter-namespace 'KtNotebooks.Tests.Interop*' "$@"
}

case ${1:-} in
    pack) [ $# -eq 2 ] || { echo "usage: $0 pack OUT.tar.xz" >&2; exit 2; }; pack "$2" ;;
    test) shift; run_tests "$@" ;;
    *) sed -n '2,6p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
