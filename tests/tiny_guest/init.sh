#!/bin/busybox sh
# All that runs in the tiny guest: /init of its initrd and, with cdp.root, /sbin/init of the disk's root file system.
# It tells what it did on the console, a line each: MARK WHAT … SECONDS, the seconds since the kernel started.
# What it is to do stands in the kernel's command line; tests/tiny_vm.py says what there is.

export PATH=/bin
if [ "$0" != /sbin/init ]; then
    /bin/busybox mkdir -p /proc /sys /dev /mnt /log /tmp
    /bin/busybox --install -s /bin
fi
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
read -r WORDS </proc/cmdline

mark() {
    read -r up _ </proc/uptime
    echo "MARK $* $up"
}

option() { # NAME DEFAULT
    for word in $WORDS; do
        case $word in "cdp.$1="*) echo "${word#*=}"; return ;; esac
    done
    echo "$2"
}

end() {
    cd /
    sync
    if [ "$(option hold 0)" = 1 ]; then while :; do sleep 3600; done; fi
    mount -o remount,ro / 2>/dev/null
    poweroff -f
    sleep 3600
}

fail() {
    mark failed "$*"
    end
}

wait_for_disk() {
    tries=0
    until [ -b "$1" ]; do
        tries=$((tries + 1))
        [ $tries -lt 1000 ] || fail "no $1"
        usleep 20000
    done
}

attach() { # DISK FOLDER
    wait_for_disk "$1"
    mount -t ext4 -o errors=remount-ro "$1" "$2" || fail "mount $1"
    mark mounted "$1"
}

answer_at_once() { # over TCP, in words of HTTP
    ip link set lo up
    given=$(option address 10.0.2.15/24)
    if [ -n "$given" ]; then # else somebody hands one over
        ip link set eth0 up
        ip addr add "$given" dev eth0
    fi
    printf '#!/bin/sh\nread -r -t 1 line\nprintf "HTTP/1.0 200 OK\\r\\nContent-Length: 9\\r\\n\\r\\ntiny: ok\\n"\n' >/tmp/answer
    chmod 755 /tmp/answer
    nc -ll -p "$(option port 7777)" -e /tmp/answer &
    mark answers
}

start_agent() { # QEMU's guest agent, as a distribution's udev and init start it; and tells what addresses it was handed
    load virtio_console
    tries=0
    until named=$(grep -lx org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name 2>/dev/null); do
        tries=$((tries + 1))
        [ $tries -lt 1000 ] || fail "no port for the agent"
        usleep 20000
    done
    port=${named%/name}
    qemu-ga -m virtio-serial -p "/dev/${port##*/}" -t /tmp &
    mark agent "${port##*/}"
    tell_addresses &
}

tell_addresses() { # of eth0, once it has one and a way out, which is handed over last
    until [ -n "$(ip -4 route show default)" ]; do usleep 100000; done
    ip -o addr show dev eth0 | while read -r _ _ family address _; do mark address "$family" "$address"; done
    mark route $(ip -4 route show default)
}

write_files() { # FOLDER: one file after the other, each told once it is safe
    n=$(option first 0)
    last=$((n + $(option n 20)))
    while [ $n -lt $last ]; do
        dd if=/dev/urandom of=/tmp/next bs="$(option bytes 65536)" count=1 2>/dev/null
        set -- "$1" $(sha256sum /tmp/next)
        dd if=/tmp/next of="$1/f$n" bs=64k conv=fsync 2>/dev/null || fail "write $n"
        mark fsync $n "$2"
        n=$((n + 1))
        [ "$DELAY" = 0 ] || usleep "$DELAY"
    done
}

verify_files() { # FOLDER: tells what is there, and holds it against what the initrd expects
    sha256sum "$1"/f* 2>/dev/null | while read -r sum path; do echo "MARK file ${path##*/f} $sum"; done
    check_sums "$1" /dev/expected verified
}

check_sums() { # FOLDER LIST WHAT
    [ -e "$2" ] || { mark "$3" 0 0; return; }
    (cd "$1" && sha256sum -c "$2") >/tmp/said 2>&1
    grep -v ': OK$' /tmp/said | head -n 20
    mark "$3" "$(grep -c ': OK$' /tmp/said)" "$(grep -c 'FAILED$' /tmp/said)"
}

load() { # MODULE: one that few guests want, after those that it rests on
    while read -r module; do insmod "/lib/$module" || fail "module $module"; done <"/lib/modules.$1"
}

look_at_firmware() { # tells what UEFI kept from an earlier start (-: nothing), and has it keep the word cdp.keep
    [ -d /sys/firmware/efi ] || return
    variable=/sys/firmware/efi/efivars/CdpKept-6b9d2d0e-5c0f-4f5e-9d1a-0c7c1a5f0e77
    load efivarfs
    mount -t efivarfs efivarfs /sys/firmware/efi/efivars || fail "mount efivarfs"
    kept=-
    [ ! -e $variable ] || kept=$(tail -c +5 $variable) # the first four bytes are its attributes
    mark firmware uefi "$kept"
    wanted=$(option keep)
    if [ -n "$wanted" ]; then
        printf '\007\000\000\000%s' "$wanted" >/tmp/variable
        dd if=/tmp/variable of=$variable bs=4096 2>/dev/null || fail "keep $wanted"
        mark kept "$wanted"
    fi
    umount /sys/firmware/efi/efivars
}

put() { # DISK NUMBER: a block that says its number, safe when this is over
    printf '%016d\n' "$2" | dd of="$1" bs=4096 seek="$2" conv=sync,notrunc,fsync 2>/dev/null || fail "write $2 to $1"
}

write_pairs() { # a number is in the log before it is in the data
    wait_for_disk /dev/vda
    wait_for_disk /dev/vdb
    n=$(option first 0)
    last=$((n + $(option n 20)))
    while [ $n -lt $last ]; do
        put /dev/vdb $n
        put /dev/vda $n
        mark pair $n
        n=$((n + 1))
        [ "$DELAY" = 0 ] || usleep "$DELAY"
    done
}

count_pairs() { # how many numbers follow each other from 0
    dd if="$1" bs=4096 count="$(option n 20)" 2>/dev/null | tr -d '\000' | {
        n=0
        while read -r found && [ "$found" = "$(printf '%016d' $n)" ]; do n=$((n + 1)); done
        echo $n
    }
}

DELAY=$(option delay 0)
if [ "$0" != /sbin/init ]; then
    while read -r module; do insmod "/lib/$module" || fail "module $module"; done </lib/modules
    mark boot
    look_at_firmware
    [ ! -e /expected ] || cp /expected /dev/expected # which stays as the root changes
    if [ "$(option root 0)" = 1 ]; then
        attach /dev/vda /mnt
        umount /sys /proc
        mount --move /dev /mnt/dev
        exec switch_root /mnt /sbin/init
    fi
    FOLDER=/mnt
else
    mount -t tmpfs tmp /tmp
    mark root
    FOLDER=/srv/files
fi
[ "$(option net 0)" = 1 ] && answer_at_once
[ "$(option agent 0)" = 1 ] && start_agent

JOB=$(option job write)
case $JOB in
    write | verify | verify-write) [ "$FOLDER" = /mnt ] && attach /dev/vda /mnt ;;
    touch) check_sums /srv/touched /srv/touched.sums touched ;;
esac
case $JOB in
    write) write_files $FOLDER ;;
    verify) verify_files $FOLDER ;;
    verify-write) verify_files $FOLDER && write_files $FOLDER ;;
    write-pairs) write_pairs ;;
    count-pairs)
        wait_for_disk /dev/vda
        wait_for_disk /dev/vdb
        mark pairs "$(count_pairs /dev/vda)" "$(count_pairs /dev/vdb)"
        ;;
    touch | wait) ;;
    *) fail "job $JOB" ;;
esac
if [ "$FOLDER" = /mnt ] && grep -q ' /mnt ext4 ' /proc/mounts; then umount /mnt || fail umount; fi
mark done
end
