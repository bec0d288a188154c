# TAB for kt in bash. In ~/.bashrc: eval "$(/path/to/kt completion bash)"
_kt() {
    local IFS=$'\n' line=${COMP_LINE:0:COMP_POINT} words current candidate files=
    # bash cuts words at = too; kt wants key=value whole.
    IFS=$' \t\n' read -ra words <<<"$line"
    case $line in *[[:space:]]) words+=("") ;; esac
    current=${words[-1]}
    # What stands before the last = or : is on the line already.
    local done=${current%"${current##*[=:]}"}
    COMPREPLY=()
    while IFS= read -r candidate; do
        if [[ $candidate == :files ]]; then files=1; else COMPREPLY+=("${candidate#"$done"}"); fi
    done < <("${words[0]/#\~/$HOME}" complete -- "${words[@]:1}" 2>/dev/null)
    if [[ $files ]]; then
        # It quotes what it completes, which is right for names and wrong for `key=`.
        [[ ${#COMPREPLY[@]} == 0 ]] && compopt -o filenames 2>/dev/null
        while IFS= read -r candidate; do COMPREPLY+=("$candidate"); done < <(compgen -f -- "${current#"$done"}")
    fi
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace 2>/dev/null; fi
}
complete -F _kt kt
