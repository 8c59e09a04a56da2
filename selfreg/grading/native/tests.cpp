// The tests' process: it asks for calls, and reports how the tests ended.
//
//     "c" and arguments    a call; the answer is "r" and the result, "e" and an exception, or "f"
//     "p"                  the tests ran to their end
//     "f", "x", "m"        failed, ended by an exception, or out of memory; details follow
#include <sys/prctl.h>

#include "channel.h"
#include "errors.h"

namespace selfreg_channel {
namespace {
[[noreturn]] void end(char verdict, const std::string& detail) {
    sent = verdict + detail;
    send();
    _exit(0);
}

struct Foreign : std::exception {
    std::string reason;
    explicit Foreign(std::string reason) : reason(std::move(reason)) {}
    const char* what() const noexcept override { return reason.c_str(); }
};

[[noreturn]] void raise(const std::string& error) {
    const Size line_end = error.find('\n');
    const std::string type = error.substr(0, line_end);
    const std::string what = line_end == std::string::npos ? "" : error.substr(line_end + 1);
#define SELFREG_THROW(known)                                                     \
    if (type == #known) throw known(what);
    SELFREG_ERRORS(SELFREG_THROW)
    if (type == "std::bad_alloc") throw std::bad_alloc();
    throw Foreign(what);
}
}  // namespace

void fail(const char* reason) { end('f', reason); }

void ask() {
    sent.insert(0, 1, 'c');
    send();
    receive();
    char kind = 0;
    get(&kind, 1);
    if (kind == 'r') return;
    const std::string rest = received.substr(position);
    if (kind == 'e') raise(rest);
    fail(kind == 'f' ? rest.c_str() : "an answer is of no known kind");
}
}  // namespace selfreg_channel

extern "C" void __assert_fail(const char* what, const char* file, unsigned line, const char*) noexcept {
    const std::string place = std::string(file) + ", line " + std::to_string(line);
    selfreg_channel::end('f', place + ": Assertion `" + what + "' failed");
}

extern "C" int __real_main(int, char**);

extern "C" int __wrap_main(int count, char** values) {
    using selfreg_channel::end;
    // No process of the same user may inspect this one.
    prctl(PR_SET_DUMPABLE, 0);
    int status = 0;
    try {
        status = __real_main(count, values);
    } catch (const std::bad_alloc& error) {
        end('m', error.what());
    } catch (const std::exception& error) {
        end('x', error.what());
    } catch (...) {
        end('x', "an exception that is none of the standard library");
    }
    if (status) end('f', "the tests returned " + std::to_string(status));
    end('p', "");
}
