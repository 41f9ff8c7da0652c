# A user's systemd on a delegated part of the tree, and Hutch under it: sourced facts on standard output, a line each.
# $1: the source directory, $2: a site-packages directory with jeepney. To be run as root in a machine with v2 alone.
set -eu
user=hutch-systemd
id -u $user >/dev/null 2>&1 || useradd --create-home $user
uid=$(id -u $user)
tree=/sys/fs/cgroup/hutch-delegated
mkdir -p /run/systemd/system /run/user/$uid $tree
chown $user /run/user/$uid; chmod 700 /run/user/$uid
for controller in cpu memory pids; do echo +$controller >$tree/cgroup.subtree_control; done
mkdir -p $tree/user; chown -R $user $tree
in_tree() { # CGROUP COMMAND...: as the user, in that cgroup
  place=$1; shift
  sh -c 'echo $$ >'"$place"'/cgroup.procs; exec "$@"' sh setpriv --reuid $user --regid $user --init-groups env -i \
    HOME=/home/$user PATH=/usr/bin:/bin XDG_RUNTIME_DIR=/run/user/$uid PYTHONPATH="$PYTHONPATH" HUTCH_STATE=/run/user/$uid/hutch "$@"
}
export PYTHONPATH=$1:$2
in_tree $tree/user /lib/systemd/systemd --user --log-level=err & manager=$!
for _ in $(seq 150); do [ -S /run/user/$uid/systemd/private ] && break; sleep .2; done
hutch() { in_tree $tree/user/init.scope /usr/bin/python3 -m hutch.cli "$@"; }
hutch run --cgroup-manager systemd -m 64m --pids-limit 20 host sh -c 'cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max' || echo "failed $?"
hutch run --cgroup-manager systemd -m 64m host python3 -c 'bytearray(300 << 20)' || echo "exit $?"
sleep 1
sleep 1
echo "left: $(find $tree -name 'hutch-*.scope' | wc -l)"
kill -KILL $manager; wait $manager 2>/dev/null || true; pkill -KILL -u $user || true
for _ in $(seq 50); do find $tree -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null; rmdir $tree 2>/dev/null && break; sleep .2; done
