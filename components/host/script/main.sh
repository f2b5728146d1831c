# --- What is asked

verb=${1-}
[ $# = 0 ] || shift
case $verb in
  help | -h | --help)
    usage
    exit
    ;;
  apply | confirm | pause | remove | restore | rollback | status | uninstall | watch) ;;
  *)
    usage >&2
    exit 64
    ;;
esac
[ "$(id -u)" = 0 ] || fail 'must be run as root'
missing=$(missing_programs)
if [ -n "$missing" ]; then
  # Without them nothing was ever applied here.
  if { [ "$verb" = remove ] || [ "$verb" = uninstall ]; } && ! is_confirmed; then
    rm -rf "$run" "$etc"
    [ "$verb" = remove ] || rm -f "$self"
    case $verb in remove) echo removed ;; *) echo uninstalled ;; esac
    exit
  fi
  echo "$missing" | sed 's/^/mail-firewall: /' >&2
  fail 'nothing was changed'
fi
for family in $families; do backend "$family" >/dev/null; done # outside of the subshells that would forget it
"$verb" "$@"
# end of mail-firewall
