#!/bin/bash
# A real Ceph with its RADOS gateway, the smallest that serves S3: one monitor, one manager, one OSD, one gateway,
# all on loopback, no systemd, nothing outside DIRECTORY. For tests only: cephx is off.
#
#   ceph-rgw.sh DIRECTORY PORT     (PORT: the gateway; PORT+1, PORT+2: the monitor; PORT+3..PORT+40: the daemons)
#
# Says `ready` on standard output, then serves until standard input is closed, then stops every daemon and removes
# DIRECTORY. Closed, not told: a caller that dies by SIGKILL leaves no Ceph behind either.
# The user is $CEPH_ACCESS_KEY with $CEPH_SECRET_KEY. With $CEPH_NO_GATEWAY there is neither: the caller makes both.
set -euo pipefail

directory=$(realpath -m "$1")
port=$2
osd_bytes=${CEPH_OSD_BYTES:-$((16 << 30))} # sparse: takes what is written
stop_polls=100          # of 0.1 s
monitor_polls=150       # of 0.2 s
gateway_polls=900       # of 0.1 s
export CEPH_CONF=$directory/ceph.conf

# A dead daemon may stay listed until its new parent collects it; that one no longer writes.
running() { grep -q '^State:[[:space:]]*[^ZX]' "/proc/$1/status" 2>/dev/null; }

# Nothing of this cluster is used again, so nothing waits for it to shut down in order.
stop_all() {
    trap - EXIT
    local pid pids
    pids=$(cat "$directory"/run/*.pid 2>/dev/null || true)
    for pid in $pids; do kill -9 "$pid" 2>/dev/null || true; done
    for pid in $pids; do
        for _ in $(seq "$stop_polls"); do
            running "$pid" || break
            sleep 0.1
        done
    done
    rm -rf "$directory"
}

write_configuration() {
    cat >"$CEPH_CONF" <<CONF
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$((port + 1)),v1:127.0.0.1:$((port + 2))]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
ms bind port min = $((port + 3))
ms bind port max = $((port + 40))
auth cluster required = none
auth service required = none
auth client required = none
# The gateway insists on secure mode towards the monitor unless told; without cephx that handshake never ends.
ms mon client mode = crc secure
ms mon service mode = crc secure
ms mon cluster mode = crc secure
keyring = $directory/keyring
run dir = $directory/run
admin socket = $directory/run/\$name.\$pid.asok
pid file = $directory/run/\$type.pid
log file = $directory/log/\$name.log
log to syslog = false
mon cluster log file = $directory/log/cluster.log
crash dir = $directory/log
setuser =
setgroup =
# One OSD holds one copy: a pool is whole with it.
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 2000
mon warn on pool no redundancy = false
auth allow insecure global id reclaim = true
mon warn on insecure global id reclaim = false
mon warn on insecure global id reclaim allowed = false
[mon]
# Quick elections and proposals: start-up is a chain of them.
paxos propose interval = 0.05
paxos min wait = 0.01
mon data = $directory/mon
# A test machine's disk is often nearly full; that is not what is tested.
mon data avail warn = 1
mon data avail crit = 0
mon osd full ratio = .98
mon osd nearfull ratio = .96
mon osd backfillfull ratio = .97
[mgr]
mgr data = $directory/mgr
mgr initial modules =
[osd]
osd data = $directory/osd
osd objectstore = bluestore
bluestore block size = $osd_bytes
bluestore block create = true
bluestore fsck on mount = false
bluestore prefer deferred size = 0
osd memory target = 939524096
osd class default list = *
osd class load list = *
osd op num shards = 2
osd op num threads per shard = 1
bdev enable discard = false
[client]
rgw frontends = beast endpoint=127.0.0.1:$port tcp_nodelay=1
rgw dns name =
rgw enable usage log = false
rgw enable ops log = false
rgw thread pool size = 64
rgw override bucket index max shards = 1
# Deleted objects go soon, so that a long run does not fill the disk.
rgw gc obj min wait = 30
rgw gc processor period = 30
CONF
}

start_monitor() {
    ceph-authtool --create-keyring "$directory/keyring" --gen-key -n mon. --cap mon 'allow *'
    ceph-authtool "$directory/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
    monmaptool --create --fsid "$fsid" \
        --addv a "[v2:127.0.0.1:$((port + 1)),v1:127.0.0.1:$((port + 2))]" "$directory/monmap"
    ceph-mon -i a --mkfs --monmap "$directory/monmap" --keyring "$directory/keyring"
    ceph-mon -i a
    ceph-mgr -i x
    for _ in $(seq "$monitor_polls"); do
        timeout 5 ceph --connect-timeout 3 mon stat && return
        sleep 0.2
    done
    return 1
}

start_osd() {
    local uuid
    uuid=$(cat /proc/sys/kernel/random/uuid)
    ceph osd new "$uuid" 0 </dev/null
    ceph-osd -i 0 --mkfs --osd-uuid "$uuid" --no-mon-config
    ceph osd crush add osd.0 1.0 root=default host=localhost
    ceph-osd -i 0
}

start_gateway() {
    [ -z "${CEPH_NO_GATEWAY:-}" ] || return 0
    radosgw-admin user create --uid=test --display-name=test \
        --access-key="$CEPH_ACCESS_KEY" --secret-key="$CEPH_SECRET_KEY"
    radosgw -n client.admin --pid-file="$directory/run/rgw.pid" --log-file="$directory/log/rgw.log"
    for _ in $(seq "$gateway_polls"); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") && return
        sleep 0.1
    done
    return 1
}

trap stop_all EXIT
trap 'exit 143' TERM INT
mkdir -p "$directory"/{run,log,mon,mgr,osd}
fsid=$(cat /proc/sys/kernel/random/uuid)
write_configuration
# The tools' chatter is kept apart from `ready`, and shown by the caller only when something failed.
if ! (set -e; start_monitor; start_osd; start_gateway) >"$directory/log/start.log" 2>&1 </dev/null; then
    tail -n 30 "$directory/log/start.log" >&2
    exit 1
fi
echo ready
cat >/dev/null
