#!/usr/bin/env bash
# The launcher: puts in what is missing, builds what changed, then runs the program kt (or the tests, for `./kt test`).
# On a built checkout it costs a few milliseconds. KT_NO_INSTALL=1: never install, only say what to type.
# KT_EMULATE_CUDA=1: any command sees two emulated cards (tests/cuda-emulator); for tests and for looking at kernels, far too slow for work.
set -euo pipefail

root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
artifacts=$root/artifacts
program=$artifacts/bin/KtNotebooks.Cli/release/kt
tests=$artifacts/bin/KtNotebooks.Tests/release/KtNotebooks.Tests
zmq=libzmq.so.5

say() { echo "kt: $*" >&2; }
has() { command -v "$1" >/dev/null; }
has_compiler() { has cmake && has g++ && has make; }
has_python() { [[ -d /usr/lib/python3/dist-packages/$1 ]]; }
has_library() { compgen -G "/usr/lib/*/$1" >/dev/null || compgen -G "/lib/*/$1" >/dev/null || compgen -G "/usr/l*/$1" >/dev/null; }

# A font with Chinese letters, of which charts draw theirs; the notebooks' stored outputs hold no line that says it is missing.
has_chinese() { [[ $OSTYPE != linux* ]] || { has fc-list && [[ -n $(fc-list :lang=zh family) ]]; }; }

# ICU, of which .NET takes cultures (currency formats, names of months); macOS has its own. Its package's name holds its version.
has_icu() { [[ $OSTYPE != linux* ]] || has_library 'libicuuc.so.*'; }
icu_package() {
    local name
    name=$(apt-cache pkgnames libicu 2>/dev/null | grep -E '^libicu[0-9]+$' | sort -V | tail -n 1) || true
    echo "${name:-libicu-dev}"
}

# The Debian packages that the command $1 lacks, on one line.
missing_for() {
    local packages=()
    has_icu || packages+=(libicu)
    has g++ || packages+=(g++)
    has cmake || packages+=(cmake)
    has make || packages+=(make)
    case $1 in
        kernel | notebook | tour | test) has_library $zmq || packages+=(libzmq5) ;;
    esac
    case $1 in
        tour | test)
            has_python nbclient || packages+=(python3-nbclient)
            has_chinese || packages+=(fontconfig fonts-wqy-microhei)
            ;;
    esac
    case $1 in
        eval | predict | report | notebook | tour | test) has_python jieba || packages+=(python3-jieba) ;; # its dictionary, for ROUGE and word BLEU
    esac
    case $1 in
        test) # ranks, and networks between them
            has_python nltk || packages+=(python3-nltk)
            has mpirun || packages+=(openmpi-bin)
            has ip || packages+=(iproute2)
            has srun || packages+=(slurm-wlm munge)
            # srun's PMIx plugin opens a link that only the development package has.
            compgen -G "/usr/lib/*/pmix2/lib/libpmix.so" >/dev/null || packages+=(libpmix-dev)
            ;;
    esac
    case $1 in
        test) has_python jupyter_kernel_test || packages+=(python3-jupyter-kernel-test) ;;
    esac
    case $1 in
        test) # notebooks in a real browser
            has chromium || packages+=(chromium)
            has jupyter-notebook || packages+=(jupyter-notebook)
            has_python jupyterlab_server || packages+=(python3-jupyterlab-server)
            ;;
    esac
    echo "${packages[*]}"
}

# Installs what is missing where that is possible and else says how. Nothing here is fatal: without a C++ compiler the engine runs its managed
# code, without Jupyter the tour runs in the program itself.
install_for() {
    local packages
    packages=$(missing_for "$1")
    [[ -n $packages ]] || return 0
    if [[ ${KT_NO_INSTALL:-} != 1 && $EUID == 0 ]] && has apt-get; then
        say "installing $packages"
        local log=$artifacts/install.log
        mkdir -p "$artifacts"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update >"$log" 2>&1 </dev/null || true # one dead source is no reason to stop
        packages=${packages/#libicu/$(icu_package)}
        # shellcheck disable=SC2086
        apt-get install -y --no-install-recommends $packages >>"$log" 2>&1 </dev/null && return
        say "apt-get failed, its last words (all of them in $log):"
        tail -n 5 "$log" >&2
    fi
    packages=${packages/#libicu/$(icu_package)}
    say "going on without $packages; to install: sudo apt-get install -y $packages"
}

# Without ICU .NET refuses to start unless it is told to do without cultures. Said once in this checkout.
do_without_icu() {
    [[ -z ${DOTNET_SYSTEM_GLOBALIZATION_INVARIANT:-} ]] && ! has_icu || return 0
    export DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1
    [[ ! -e $artifacts/without-icu ]] || return 0
    say "without the library ICU (Debian: $(icu_package)) cells know no culture but the invariant one: CultureInfo.GetCultureInfo(\"de-DE\") fails"
    mkdir -p "$artifacts"
    touch "$artifacts/without-icu"
}

require_sdk() {
    if ! has dotnet && [[ -x $HOME/.dotnet/dotnet ]]; then PATH=$HOME/.dotnet:$PATH; fi
    if ! has dotnet; then
        say "the .NET SDK 10 is missing; get it at https://dotnet.microsoft.com/download/dotnet/10.0"
        exit 2
    fi
    # The built programs look for the runtime in DOTNET_ROOT or in the system's usual places only.
    local home
    home=$(dirname "$(readlink -f "$(command -v dotnet)")")
    if [[ -z ${DOTNET_ROOT:-} && -d $home/host/fxr ]]; then export DOTNET_ROOT=$home; fi
}

# Whether a source is newer than the last build of $1 (cli or all).
is_stale() {
    local stamp=$artifacts/built-$1 sources=("$root"/src "$root"/*.props "$root"/KtNotebooks.sln "$root"/.editorconfig)
    [[ -x $program && -e $stamp ]] || return 0
    if [[ $1 == all ]]; then
        [[ -x $tests ]] || return 0
        sources+=("$root"/tests)
    fi
    # Built without a C++ compiler, which has arrived since.
    if [[ ! -e ${program%/*}/libktnative.so ]] && has_compiler; then return 0; fi
    # Folders too: a deleted file changes its folder.
    [[ -n $(find "${sources[@]}" -newer "$stamp" -print -quit) ]]
}

build() {
    local what=$1 target=$root/KtNotebooks.sln
    is_stale "$what" || return 0
    if [[ $what == cli ]]; then target=$root/src/KtNotebooks.Cli; fi
    if ! dotnet --list-sdks | grep -q '^1[0-9]\.'; then
        say "building needs the .NET SDK 10, here is: $(dotnet --list-sdks | tr '\n' ' ')get it at https://dotnet.microsoft.com/download/dotnet/10.0"
        exit 2
    fi
    mkdir -p "$artifacts"
    exec 9>"$artifacts/build.lock"
    if has flock; then flock 9; fi
    # Unless another ./kt has just built it. The lock must not pass to the program, which may run for days.
    if is_stale "$what"; then compile "$what" "$target"; fi
    exec 9>&-
}

compile() {
    local what=$1 target=$2
    say "building ..."
    local log=$artifacts/build.log options=(-c Release -v quiet --tl:off --disable-build-servers)
    has_compiler || options+=(-p:KtSkipNative=true)
    # Of before the build: what is edited meanwhile counts as newer. Without build servers: they would outlive the launcher, with its lock and memory.
    touch "$artifacts/building"
    if ! DOTNET_CLI_TELEMETRY_OPTOUT=1 DOTNET_NOLOGO=1 dotnet build "$target" "${options[@]}" >"$log" 2>&1 </dev/null 9>&-; then
        grep -E 'error|warning' "$log" | sort -u >&2 || cat "$log" >&2
        say "the build failed; everything it said: $log"
        exit 1
    fi
    mv "$artifacts/building" "$artifacts/built-$what"
    if [[ $what == all ]]; then cp -p "$artifacts/built-all" "$artifacts/built-cli"; fi
    say "built in $SECONDS s"
}

# Puts the emulated CUDA libraries where the engine looks for real ones.
emulate_cuda() {
    has g++ || { say "KT_EMULATE_CUDA needs g++"; exit 2; }
    local libraries=$artifacts/cuda-emulator
    "$root/tests/cuda-emulator/build.sh" "$libraries"
    export KT_EMULATE_CUDA=1 CUDA_HOME=$libraries LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

# Runs the tests and ends with one line: N passed, N failed, N skipped. Words pick the tests whose class or name contains one of them; options
# go to the test program as they are (--help lists them). Without any, what uses a card is run once more, on an emulated one.
run_tests() {
    local log=$artifacts/test.log arguments=("$@") status=0 word
    if [[ $# -gt 0 && $1 != -* ]]; then
        arguments=()
        for word in "$@"; do arguments+=(--filter-method "*$word*"); done
    fi
    cd "$root"
    test_program "${arguments[@]}" 2>&1 | tee "$log" || status=$?
    if [[ $# == 0 && ${KT_EMULATE_CUDA:-} == "" && ,${KT_REQUIRE:-}, != *,cuda,* ]]; then
        if has g++; then
            echo "On the emulated card:" | tee -a "$log"
            (emulate_cuda && KT_EMULATED_STREAMS=${KT_EMULATED_STREAMS:-lazy} KT_EMULATED_CARDS=${KT_EMULATED_CARDS:-4} test_program --filter-trait card=cuda) 2>&1 | tee -a "$log" || status=$?
            echo "On the emulated card: what has kernels of its own for Hopper" | tee -a "$log"
            (emulate_cuda && KT_EMULATED_ARCH=90 test_program --filter-class '*GroupedCodesTests' --filter-class '*ExpertExecutorTests') 2>&1 | tee -a "$log" || status=$?
        else
            printf 'skipped all tests on the emulated card\n  it is made by g++, which is not here\n' | tee -a "$log"
        fi
    fi
    summarize "$log" || status=$((status ? status : 1))
    return $status
}

test_program() {
    # A shell that runs this in the background ignores SIGINT for all below it, nohup SIGHUP, and tests of these signals would wait for ever.
    local clean=()
    if env --default-signal=INT,HUP true 2>/dev/null; then clean=(env --default-signal=INT,HUP); fi
    TESTINGPLATFORM_TELEMETRY_OPTOUT=1 "${clean[@]}" "$tests" --no-ansi --no-progress --output Normal --results-directory "$artifacts/test-results" "$@"
}

# Groups the skipped tests by their reasons, repeats what the failed ones said (CI may keep the end of a log only) and writes the last line; fails
# when a test did or when none ran.
summarize() {
    awk '
        /^skipped /           { name = $0; sub(/^skipped /, "", name); sub(/ \([0-9a-z ]+\)$/, "", name); name = where name; next }
        name != ""            { sub(/^ +/, ""); names[$0] = names[$0] "\n  " name; name = ""; next }
        /^failed /            { name = substr($0, 8); sub(/ \([0-9a-z ]+\)$/, "", name); failures = failures "\n  " where name; name = ""; said = 40; next }
        /^[^ ]/               { said = 0 }
        said > 0 && NF        { failures = failures "\n  " substr($0, 1, 300); said-- }
        /^On the emulated card:/ { where = "on the emulated card: "; ended = ended || !summary; summary = 0 }
        /^Test run summary:/  { summary = 1 }
        summary && / failed:/    { failed += $2 }
        summary && / succeeded:/ { passed += $2 }
        summary && / skipped:/   { skipped += $2 }
        END {
            for (reason in names) print "\nskipped: " reason names[reason]
            if (failures) print "\nfailed:" failures
            summary = summary && !ended
            if (!summary) print "\nthe test program ended before its summary"
            printf "\n%d passed, %d failed, %d skipped\n", passed, failed, skipped
            exit !(summary && failed == 0 && passed > 0)
        }' "$1"
}

command=${1:-}
# At every TAB: never installs or builds; before the first build there is nothing to ask.
if [[ $command == complete && ! -x $program ]]; then exit 0; fi
# mpirun gives its ranks a terminal that is none: .NET would write its escape codes into every log.
if [[ ${OMPI_COMM_WORLD_SIZE:-1} != 1 ]]; then export TERM=dumb; fi
require_sdk
if [[ $command == complete ]]; then exec "$program" "$@"; fi
if [[ ${KT_EMULATE_CUDA:-} == 1 ]]; then emulate_cuda; fi
if [[ $command == test && ${2:-} =~ ^(--help|-h|-\?)$ ]]; then
    cat <<'HELP'
Run the tests; the last line is: N passed, N failed, N skipped

usage: ./kt test [WORD …]        those whose class or name contains one of the words; without any, all
       ./kt test --OPTION …      options of xUnit's test program; `./kt test --list-tests` lists, `./kt test --info` says more

KT_EMULATE_CUDA=1 gives them two emulated cards; KT_CPU=avx2 (avx512, avx512bf16, amx) another CPU kernel.
HELP
elif [[ $command == test ]]; then
    install_for test
    do_without_icu
    build all
    shift
    run_tests "$@"
else
    if is_stale cli || [[ $command =~ ^(tour|kernel|eval|predict|report)$ ]]; then install_for "$command"; fi
    do_without_icu
    build cli
    exec "$program" "$@"
fi
