/* The bare send loop: N connected sockets, and for each frame one non-blocking send() to each of them.
 *
 * Prints its port, accepts N clients, then obeys stdin: "SIZE\n" followed by a frame of SIZE bytes, sent to all. After
 * each frame it prints the seconds of user and system time that took, and how often a socket was full (it then waits
 * for that one). No event loop, no parsing, nothing kept: what is left is the kernel.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>

static double seconds(struct timeval t) { return t.tv_sec + t.tv_usec / 1e6; }

static long send_all(int fd, const char *frame, size_t size) {
    long full = 0;
    while (size) {
        ssize_t sent = send(fd, frame, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent >= 0) {
            frame += sent;
            size -= sent;
        } else if (errno == EAGAIN) {
            struct pollfd wait = {fd, POLLOUT, 0};
            poll(&wait, 1, -1);
            full++;
        } else
            exit(1);
    }
    return full;
}

int main(int argc, char **argv) {
    int clients = argc > 1 ? atoi(argv[1]) : 1;
    int *fds = malloc(clients * sizeof *fds);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) return 1;
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (int i = 0; i < clients; i++) {
        int on = 1; /* as every websocket server: without it, Nagle joins frames and hides what a send costs */
        if ((fds[i] = accept(listener, NULL, NULL)) < 0) return 1;
        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }

    size_t size;
    while (scanf("%zu", &size) == 1) {
        char *frame = malloc(size);
        getchar(); /* the newline */
        if (fread(frame, size, 1, stdin) != 1) return 1;
        struct rusage before, after;
        long full = 0;
        getrusage(RUSAGE_SELF, &before);
        for (int i = 0; i < clients; i++) full += send_all(fds[i], frame, size);
        getrusage(RUSAGE_SELF, &after);
        printf("%f %f %ld\n", seconds(after.ru_utime) - seconds(before.ru_utime),
               seconds(after.ru_stime) - seconds(before.ru_stime), full);
        fflush(stdout);
        free(frame);
    }
    return 0;
}
