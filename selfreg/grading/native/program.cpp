// The program's process: it answers calls of one function, whatever `main` the program has.
//
//     call      the judge's number of 8 bytes, arguments
//     answer    the same number; then "r" and the result, "e" and an exception, "f" and a reason
//
// The program controls all of this and can change every byte. It gains nothing, because the tests
// take values from here, and never a verdict.
#include "channel.h"
#include "errors.h"

void selfreg_answer();

namespace selfreg_channel {
namespace {
struct Misfit {
    std::string reason;
};
}  // namespace

void fail(const char* reason) { throw Misfit{reason}; }
}  // namespace selfreg_channel

extern "C" int __wrap_main(int, char**) {
    using namespace selfreg_channel;
    for (;;) {
        receive();
        std::string number(8, '\0');
        get(&number[0], number.size());
        sent = "r";
        const auto raise = [](const char* type, const char* what) {
            sent = std::string("e") + type + '\n' + what;
        };
        try {
            selfreg_answer();
        } catch (const Misfit& misfit) {
            sent = "f" + misfit.reason;
        } catch (const std::bad_alloc& error) {
            raise("std::bad_alloc", error.what());
        }
#define SELFREG_CATCH(type)                                                      \
    catch (const type& error) {                                                  \
        raise(#type, error.what());                                              \
    }
        SELFREG_ERRORS(SELFREG_CATCH)
        catch (const std::exception& error) {
            raise("std::exception", error.what());
        } catch (...) {
            raise("", "an exception that is none of the standard library");
        }
        sent.insert(0, number);
        send();
    }
}
