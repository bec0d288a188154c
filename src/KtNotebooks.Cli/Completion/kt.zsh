#compdef kt
# TAB for kt in zsh. In ~/.zshrc, after compinit: eval "$(/path/to/kt completion zsh)"
_kt() {
    local -a given pairs plain
    local candidate files=
    given=("${(@)words[2,CURRENT]}")
    for candidate in ${(f)"$(${~words[1]} complete -- "${(@)given}" 2>/dev/null)"}; do
        if [[ $candidate == :files ]]; then files=1
        elif [[ $candidate == *= ]]; then pairs+=("$candidate")
        else plain+=("$candidate")
        fi
    done
    (( $#plain )) && compadd -- "${(@)plain}"
    (( $#pairs )) && compadd -S '' -- "${(@)pairs}"
    if [[ -n $files ]]; then
        [[ $PREFIX == *=* ]] && compset -P '*='
        _files
    fi
}
compdef _kt kt
