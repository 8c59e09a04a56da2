// Shared by both ends of the channel: messages after a four-byte length.
#pragma once
#include <cstring>
#include <string>
#include <unistd.h>

#include "carry.h"

namespace selfreg_channel {
namespace {
constexpr int file = 3;
std::string sent, received;
Size position = 0;

void send() {
    const Size size = sent.size();
    unsigned char head[4];
    for (int i = 0; i < 4; i++) head[i] = static_cast<unsigned char>(size >> (24 - 8 * i));
    sent.insert(0, reinterpret_cast<char*>(head), 4);
    for (Size at = 0; at < sent.size();) {
        const ssize_t count = write(file, sent.data() + at, sent.size() - at);
        if (count <= 0) _exit(1);
        at += static_cast<Size>(count);
    }
    sent.clear();
}

void read_all(char* data, Size size) {
    while (size) {
        const ssize_t count = read(file, data, size);
        if (count <= 0) _exit(0);
        data += count;
        size -= static_cast<Size>(count);
    }
}

void receive() {
    unsigned char head[4];
    read_all(reinterpret_cast<char*>(head), 4);
    received.resize(Size(head[0]) << 24 | Size(head[1]) << 16 | Size(head[2]) << 8 | Size(head[3]));
    read_all(&received[0], received.size());
    position = 0;
}

char receive_kind() {
    receive();
    if (received.empty()) return 0;
    position = 1;
    return received[0];
}
}  // namespace

void put(const void* data, Size size) { sent.append(static_cast<const char*>(data), size); }

void get(void* data, Size size) {
    if (size > size_of_rest()) fail("an answer is too short");
    std::memcpy(data, received.data() + position, size);
    position += size;
}

Size size_of_rest() { return received.size() - position; }

void done() {
    if (size_of_rest()) fail("an answer is too long");
}
}  // namespace selfreg_channel
