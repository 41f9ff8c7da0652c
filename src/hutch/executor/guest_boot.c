/* Inside a machine: from the kernel's first process to a system that containers can be made in. */
#include "executor.h"

void guest_send(u32 type, u32 session, const void *data, u32 size)
{
    struct frame head = {size, (u16)type, (u16)session};
    /* waits for as long as the host takes: the relay always reads */
    if (write_all(vm.channel, &head, sizeof head) < 0 || write_all(vm.channel, data, size) < 0) sys(__NR_sched_yield);
}

_Noreturn void guest_stop(void)
{
    sys(__NR_sync);
    sys(__NR_reboot, 0xfee1dead, 672274793, 0x4321fedc /* LINUX_REBOOT_CMD_POWER_OFF */, 0);
    exit_(0);
}

/* Whether this is a machine's first process, and not a container's that was made to run its executor. */
int in_ramdisk(void)
{
    long fd = openat_(AT_FDCWD, "/modules/order", O_RDONLY | O_CLOEXEC, 0);
    close_(fd);
    return fd >= 0;
}

/* By the kernel's log, which the console shows: its own device waits for interrupts that a machine without firmware has not. */
static void guest_say(const char *what)
{
    TEXT(line, DETAIL);
    long fd = openat_(AT_FDCWD, "/dev/kmsg", O_WRONLY | O_CLOEXEC, 0);
    puts_(&line, "<1>hutch: ");
    puts_(&line, what);
    write_all(fd, line_, line.used);
    close_(fd);
}

/* What went wrong before anything could be run, to the host; to the console, too, where a broken channel leaves it. */
_Noreturn void guest_failed(const char *what, const char *which, long error)
{
    TEXT(words, DETAIL);
    puts_(&words, "the guest: ");
    puts_(&words, what);
    puts_(&words, " ");
    puts_(&words, which);
    puts_(&words, ": error ");
    putn(&words, -error);
    guest_say(words_);
    if (vm.channel > 0) guest_send(GUEST_FAILED, 0, words_, (u32)words.used);
    pause_(500000000);
    guest_stop();
}

static void guest_mount(const char *type, const char *place, word flags, const char *options)
{
    sys(__NR_mkdirat, AT_FDCWD, place, 0755);
    long r = sys(__NR_mount, type, place, type, flags, options);
    if (r < 0) guest_failed("mount", type, r);
}

/* A line each: the modules' files, in the order of their dependencies. */
static void load_modules(void)
{
    LARGE static char names[16384];
    long fd = openat_(AT_FDCWD, "/modules/order", O_RDONLY | O_CLOEXEC, 0), n = fd < 0 ? 0 : sys(__NR_read, fd, names, sizeof names - 1);
    close_(fd);
    for (long at = 0; at < n;) {
        TEXT(path, 256);
        long end = at;
        while (end < n && names[end] != '\n') end++;
        puts_(&path, "/modules/");
        put(&path, names + at, (word)(end - at));
        fd = openat_(AT_FDCWD, path_, O_RDONLY | O_CLOEXEC, 0);
        long r = fd < 0 ? fd : sys(__NR_finit_module, fd, "", 0);
        close_(fd);
        if (r < 0 && r != -EEXIST) guest_failed("load the module", path_, r);
        at = end + 1;
    }
}

/* The kernel's first root is a ramfs, which pivot_root(2) refuses to exchange: go on in a tmpfs over it. */
void guest_boot(void)
{
    sys(__NR_mkdirat, AT_FDCWD, "/n", 0755);
    sys(__NR_mkdirat, AT_FDCWD, "/proc", 0755);
    sys(__NR_mount, "proc", "/proc", "proc", 0, 0);
    load_modules();
    long r = sys(__NR_mount, "tmpfs", "/n", "tmpfs", 0, "mode=0755");
    if (r < 0) guest_failed("mount", "tmpfs", r);
    guest_mount("proc", "/n/proc", 2 | 4 | 8 /* MS_NOSUID, MS_NODEV, MS_NOEXEC */, 0);
    guest_mount("devtmpfs", "/n/dev", 2 | 8, 0);
    guest_mount("sysfs", "/n/sys", 2 | 4 | 8, 0);
    guest_mount("cgroup2", "/n/sys/fs/cgroup", 2 | 4 | 8, 0);
    sys(__NR_mkdirat, AT_FDCWD, "/n/run", 0755);
    sys(__NR_mkdirat, AT_FDCWD, "/n/root", 0755);
    sys(__NR_mkdirat, AT_FDCWD, "/n/tmp", 01777);
    if ((r = sys(__NR_chdir, "/n")) < 0 || (r = sys(__NR_mount, ".", "/", 0, 8192 /* MS_MOVE */, 0)) < 0 || (r = sys(__NR_chroot, ".")) < 0)
        guest_failed("change the root", "", r);
    sys(__NR_chdir, "/");
    const char *const controllers[] = {"+cpuset", "+cpu", "+io", "+memory", "+pids", "+hugetlb"};
    long fd = openat_(AT_FDCWD, "/sys/fs/cgroup/cgroup.subtree_control", O_WRONLY | O_CLOEXEC, 0);
    for (word i = 0; i < sizeof controllers / sizeof *controllers; i++) sys(__NR_write, fd, controllers[i], length(controllers[i]));
    close_(fd);
    /* the container's limit says when memory has run out, not the machine's size: as on a host that has more of it */
    fd = openat_(AT_FDCWD, "/proc/sys/vm/overcommit_memory", O_WRONLY | O_CLOEXEC, 0);
    sys(__NR_write, fd, "1", 1);
    close_(fd);
    for (int tries = 0; (vm.channel = openat_(AT_FDCWD, "/dev/vport0p1", O_RDWR | O_CLOEXEC, 0)) < 0; tries++) {
        if (tries > 2000) guest_failed("open", "/dev/vport0p1", vm.channel);
        pause_(1000000);
    }
}

/* What is as it was when a machine is copied, and must not be: the time, and what the random numbers come from. */
void guest_renew(struct setup *setup)
{
    struct {
        i32 bits, size;
        u8 bytes[64];
    } entropy = {512, 64, {0}};
    memcpy(entropy.bytes, setup->entropy, 64);
    sys(__NR_clock_settime, 0, &setup->seconds);
    long fd = openat_(AT_FDCWD, "/dev/urandom", O_RDWR | O_CLOEXEC, 0);
    sys(__NR_ioctl, fd, 0x40085203 /* RNDADDENTROPY */, &entropy);
    sys(__NR_ioctl, fd, 0x5207 /* RNDRESEEDCRNG */, 0);
    close_(fd);
}

void guest_setup(struct setup *setup)
{
    static u8 done;
    guest_renew(setup);
    if (!done) {
        long r = setup->disks ? 0 : sys(__NR_mount, "root", "/root", "virtiofs", 0, 0);
        if (r < 0) guest_failed("mount the root by", "virtiofs", r);
        for (u32 i = 0; i < setup->disks && i < 26; i++) {
            TEXT(place, 32);
            char disk[] = "/dev/vda";
            disk[7] = (char)('a' + i);
            puts_(&place, "/layers/");
            putn(&place, i);
            sys(__NR_mkdirat, AT_FDCWD, "/layers", 0755);
            sys(__NR_mkdirat, AT_FDCWD, place_, 0755);
            for (int tries = 0; (r = sys(__NR_mount, disk, place_, "erofs", 1 /* MS_RDONLY */, 0)) == -ENOENT && tries < 2000; tries++) pause_(1000000);
            if (r < 0) guest_failed("mount the disk", disk, r);
        }
    }
    vm.interfaces = setup->interfaces;
    done = 1;
    guest_send(HELLO, 0, "", 0);
}
