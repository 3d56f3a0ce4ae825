/* The floor: what the kernel takes for the sends alone. A frame is built once and goes out with one
 * send() per viewer, on one thread. It checks nothing, pings nobody, resumes nothing and closes a
 * viewer whose socket stays full for a second; nothing that does more can be cheaper.
 *
 *   floor --port PORT --feed PORT
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST_FILES = 1 << 17, MOST_PROJECTS = 1 << 16, FEED_BYTES = 1 << 22, MOST_EVENTS = 256, FULL_MS = 1000 };

/* The only key that the load generator sends, so that no SHA-1 is needed here (RFC 6455 §4.2.2). */
static const char answer[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             "Sec-WebSocket-Accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n\r\n";

static struct { int *files; uint32_t count, room; } projects[MOST_PROJECTS];
static struct { bool open; uint32_t project, place; } viewers[MOST_FILES];
static uint8_t fed[FEED_BYTES], frame[FEED_BYTES];
static size_t held;
static int epoll_fd;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int listener(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096)) fail("listen");
    return fd;
}

static void watch(int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
}

static void leave(int fd) {
    if (viewers[fd].open) {
        uint32_t project = viewers[fd].project, place = viewers[fd].place;
        int last = projects[project].files[--projects[project].count];
        projects[project].files[place] = last;
        viewers[last].place = place;
        viewers[fd].open = false;
    }
    close(fd);
}

static void enter(int fd, uint32_t project) {
    if (project >= MOST_PROJECTS) return;
    if (projects[project].count == projects[project].room) {
        projects[project].room = projects[project].room ? 2 * projects[project].room : 16;
        projects[project].files = realloc(projects[project].files, projects[project].room * sizeof(int));
        if (!projects[project].files) fail("realloc");
    }
    viewers[fd].open = true;
    viewers[fd].project = project;
    viewers[fd].place = projects[project].count;
    projects[project].files[projects[project].count++] = fd;
}

static bool sent(int fd, const uint8_t *bytes, size_t size) {
    while (size) {
        ssize_t done = send(fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (done < 0) {
            struct pollfd room = {.fd = fd, .events = POLLOUT};
            if (errno != EAGAIN || poll(&room, 1, FULL_MS) != 1) return false;
            continue;
        }
        bytes += done;
        size -= (size_t)done;
    }
    return true;
}

static void publish(uint32_t project, const uint8_t *text, size_t size) {
    size_t head = size < 126 ? 2 : 4;
    if (project >= MOST_PROJECTS || size > 65535) return;
    frame[0] = 0x81;
    frame[1] = size < 126 ? (uint8_t)size : 126;
    frame[2] = (uint8_t)(size >> 8);
    frame[3] = (uint8_t)size;
    memcpy(frame + head, text, size);
    for (uint32_t i = projects[project].count; i--;)
        if (!sent(projects[project].files[i], frame, head + size)) leave(projects[project].files[i]);
}

static uint32_t number(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void take(int fd) {
    ssize_t got = read(fd, fed + held, sizeof fed - held);
    if (got <= 0) {
        close(fd);
        return;
    }
    held += (size_t)got;
    size_t at = 0;
    while (held - at >= 8 && held - at >= 8 + (size_t)number(fed + at)) {
        size_t size = number(fed + at);
        publish(number(fed + at + 4), fed + at + 8, size);
        at += 8 + size;
    }
    memmove(fed, fed + at, held -= at);
}

static void hear(int fd) {
    char request[4096];
    unsigned project;
    ssize_t got = recv(fd, request, sizeof request - 1, MSG_DONTWAIT);
    if (got <= 0) {
        leave(fd);
        return;
    }
    request[got] = 0; /* its handshakes come whole; what it sends later is of no interest */
    if (!viewers[fd].open && sscanf(request, "GET /%u", &project) == 1 && sent(fd, (const uint8_t *)answer, sizeof answer - 1))
        enter(fd, project);
}

int main(int count, char **words) {
    struct rlimit files;
    struct epoll_event events[MOST_EVENTS];
    int port = 0, feed = 0, feeder = -1, one = 1;
    for (int i = 1; i + 1 < count; i += 2)
        if (!strcmp(words[i], "--port")) port = atoi(words[i + 1]);
        else if (!strcmp(words[i], "--feed")) feed = atoi(words[i + 1]);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < MOST_FILES ? files.rlim_max : MOST_FILES;
    setrlimit(RLIMIT_NOFILE, &files);
    epoll_fd = epoll_create1(0);
    int feeds = listener(feed), doors = listener(port);
    watch(feeds);
    watch(doors);
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, MOST_EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == feeds) watch(feeder = accept(feeds, NULL, NULL));
            else if (fd == feeder) take(fd);
            else if (fd == doors) {
                int viewer = accept(doors, NULL, NULL);
                if (viewer < 0) continue;
                setsockopt(viewer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                watch(viewer);
            } else hear(fd);
        }
    }
}
