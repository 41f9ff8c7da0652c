/* An init that does nothing: a kernel that reaches it switches the machine off. */
#include <sys/reboot.h>
#include <unistd.h>

int main(void) { return reboot(RB_POWER_OFF); }
