# TAB for kt in fish. In config.fish: /path/to/kt completion fish | source
function __kt_complete
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    set -l program (string replace -r '^~' $HOME -- $before[1])
    for candidate in ($program complete -- $before[2..-1] "$current" 2>/dev/null)
        if test "$candidate" = :files
            if string match -q -- '*=*' "$current"
                set -l key (string replace -r '=.*' = -- "$current")
                for path in (__fish_complete_path (string replace -r '^[^=]*=' '' -- "$current"))
                    echo $key$path
                end
            else
                __fish_complete_path "$current"
            end
        else
            echo $candidate
        end
    end
end
complete -c kt -f -a '(__kt_complete)'
