// Linked with every program: stacks as judges of competitions give them.
#include <pthread.h>
#include <sys/resource.h>

__attribute__((constructor(101))) static void selfreg_set_stacks() {
    // A thread's stack counts as memory in full, used or not, and is by default as large as the
    // main thread's may become.
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 8 << 20);
    pthread_setattr_default_np(&attributes);
    pthread_attr_destroy(&attributes);
}
