#ifndef DAEMON_SANITIZED_H
#define DAEMON_SANITIZED_H

/*
 * SANITIZED: a build with a sanitizer, which maps code, forks, traces itself and answers faults by
 * itself.  A sandbox and a crash report of our own would only be in its way.
 */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif

#endif
