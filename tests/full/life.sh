#!/bin/sh
#
# Run within a booted system by tests/full/test_deb.py: what happens to the service, a line each.
exec >/root/result 2>/root/result.errors
say() { echo "$1=$2"; }
ask() { # the status, or curl's exit code: 7 refused, 56 reset
    curl -s -o /dev/null -w '%{http_code}\n' --max-time 70 -H "Authorization: Bearer $key" \
        http://127.0.0.1:8080/balance || echo "curl $?"
}
pid() { systemctl show tolld -p MainPID --value; }
# While they ask, restart it three times.
restarts() {
    : >/root/stop
    (while [ -e /root/stop ]; do ask; done) >/root/asked &
    asking=$!
    for _ in 1 2 3; do systemctl restart tolld || say restart failed; done
    # And after the last one some have been served.
    served=$(wc -l </root/asked)
    while [ "$(wc -l </root/asked)" -lt $((served + 20)) ]; do sleep 0.1; done
    rm /root/stop
    wait $asking
    say "$1" "$(grep -v '^000$' /root/asked | sort -u | paste -s -d ,)"
}

systemctl start tolld
say active "$(systemctl is-active tolld)"
say user "$(ps -o user= -p "$(pid)")"
say workers "$(ps -o args= --ppid "$(pid)" | grep -c '^tolld: ')"
tollctl account create alice --balance 5 >/dev/null
key=$(tollctl key create alice)
say asked "$(ask)"

systemctl stop tolld
systemctl enable --now tolld.socket
systemctl start tolld
restarts with_socket

before=$(pid)
kill -9 "$before"
say after_crash "$(ask)" # it waits in the queue
say restarted "$(systemctl show tolld -p NRestarts --value)"
say recovered "$(journalctl _SYSTEMD_INVOCATION_ID="$(systemctl show tolld -p InvocationID --value)" \
    -o cat | grep -cx 'recovered.*')"
say audit "$(tollctl audit | cut -c 1-2)"

before=$(pid)
dpkg -i --force-confold /root/newer.deb >&2
say upgraded "$(systemctl is-active tolld tolld.socket | paste -s -d ,)"
[ "$(pid)" != "$before" ] && say replaced yes
say asked_then "$(ask)"

dpkg -r tolld >&2
say removed "$(systemctl is-active tolld tolld.socket | paste -s -d ,)"
[ -e /var/lib/tolld/journal.mdb ] && say kept yes
journalctl -u tolld -o cat --no-pager | tail -40 >&2
