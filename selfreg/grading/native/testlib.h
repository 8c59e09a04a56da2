// The part of Mike Mirzayanov's testlib that most checkers use: registerTestlibCmd, the streams
// inf, ouf and ans, quitf and related functions. A checker that uses more does not compile.
// Exit statuses: 0 right, 1 wrong answer, 2 presentation error, 3 the checker's own failure.
#pragma once
#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <limits>
#include <map>
#include <queue>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

enum TResult { _ok = 0, _wa = 1, _pe = 2, _fail = 3, _dirt = 4, _points = 5, _unexpected_eof = 8 };

struct InStream;
[[noreturn]] inline void testlib_end(TResult result, const std::string& message);

struct InStream {
    std::string text, name;
    std::size_t at = 0;
    bool is_output = false;

    void open(const char* path) {
        std::ifstream file(path, std::ios::binary);
        if (!file) testlib_end(_fail, std::string("cannot read ") + path);
        text.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    // A fault in the output is the program's; a fault in another file is the checker's own failure.
    [[noreturn]] void quit(TResult result, const std::string& message) {
        testlib_end(is_output ? result : _fail, name + ": " + message);
    }
    [[noreturn]] void quitf(TResult result, const char* format, ...) {
        char buffer[1000];
        va_list list;
        va_start(list, format);
        std::vsnprintf(buffer, sizeof buffer, format, list);
        va_end(list);
        quit(result, buffer);
    }
    void skipBlanks() {
        while (at < text.size() && std::isspace(static_cast<unsigned char>(text[at]))) ++at;
    }
    bool eof() { return at >= text.size(); }
    bool seekEof() { skipBlanks(); return eof(); }
    bool eoln() { return eof() || text[at] == '\n' || text[at] == '\r'; }
    bool seekEoln() {
        while (!eof() && (text[at] == ' ' || text[at] == '\t')) ++at;
        return eoln();
    }
    void readEof() { if (!seekEof()) quit(_pe, "more than is expected"); }
    void readEoln() {
        if (!seekEoln()) quit(_pe, "a line goes on");
        if (!eof() && text[at] == '\r') ++at;
        if (!eof()) ++at;
    }
    void readSpace() { if (eof() || text[at] != ' ') quit(_pe, "a space is expected"); ++at; }
    char curChar() { return eof() ? '\0' : text[at]; }
    char readChar() { if (eof()) quit(_unexpected_eof, "ends early"); return text[at++]; }
    std::string readToken() {
        skipBlanks();
        if (eof()) quit(is_output ? _wa : _fail, "ends early");
        std::size_t start = at;
        while (at < text.size() && !std::isspace(static_cast<unsigned char>(text[at]))) ++at;
        return text.substr(start, at - start);
    }
    std::string readWord() { return readToken(); }
    std::string readLine() {
        if (eof()) quit(_wa, "ends early");
        std::size_t end = std::min(text.find('\n', at), text.size());
        std::string line = text.substr(at, end - at);
        at = std::min(end + 1, text.size());
        if (!line.empty() && line.back() == '\r') line.pop_back();
        return line;
    }
    std::string readString() { return readLine(); }
    long long readLong() {
        std::string token = readToken();
        char* end = nullptr;
        errno = 0;
        long long value = std::strtoll(token.c_str(), &end, 10);
        bool digits = std::isdigit(static_cast<unsigned char>(token[0])) || token[0] == '-';
        if (*end || errno || !digits) quit(_pe, "'" + token.substr(0, 50) + "' is no whole number");
        return value;
    }
    long long readLong(long long low, long long high, const std::string& what = "a number") {
        long long value = readLong();
        if (value < low || value > high) quit(_wa, what + " is out of range");
        return value;
    }
    int readInt() {
        const long long least = std::numeric_limits<int>::min();
        return static_cast<int>(readLong(least, std::numeric_limits<int>::max()));
    }
    int readInt(int low, int high, const std::string& what = "a number") {
        return static_cast<int>(readLong(low, high, what));
    }
    int readInteger() { return readInt(); }
    int readInteger(int low, int high, const std::string& what = "a number") {
        return readInt(low, high, what);
    }
    double readDouble() {
        std::string token = readToken();
        for (char c : token)
            if (!std::isdigit(static_cast<unsigned char>(c)) && !std::strchr("+-.eE", c))
                quit(_pe, "'" + token.substr(0, 50) + "' is no number");
        char* end = nullptr;
        double value = std::strtod(token.c_str(), &end);
        if (*end || !std::isfinite(value)) quit(_pe, "'" + token.substr(0, 50) + "' is no number");
        return value;
    }
    double readDouble(double low, double high, const std::string& what = "a number") {
        double value = readDouble();
        if (value < low || value > high) quit(_wa, what + " is out of range");
        return value;
    }
    double readReal() { return readDouble(); }
    double readReal(double low, double high, const std::string& what = "a number") {
        return readDouble(low, high, what);
    }
    std::vector<int> readInts(int count, int low, int high, const std::string& what = "a number") {
        std::vector<int> values;
        for (int i = 0; i < count; ++i) values.push_back(readInt(low, high, what));
        return values;
    }
};

inline InStream inf, ouf, ans;

[[noreturn]] inline void testlib_end(TResult result, const std::string& message) {
    // Extra output after a right answer is a presentation error, as in testlib.
    if (result == _ok && !ouf.seekEof()) {
        std::fprintf(stderr, "wrong output format Extra information in the output\n");
        std::exit(_pe);
    }
    std::fprintf(stderr, "%s\n", message.c_str());
    std::exit(result);
}
[[noreturn]] inline void quit(TResult result, const std::string& message) {
    testlib_end(result, message);
}
[[noreturn]] inline void quitf(TResult result, const char* format, ...) {
    char buffer[1000];
    va_list list;
    va_start(list, format);
    std::vsnprintf(buffer, sizeof buffer, format, list);
    va_end(list);
    testlib_end(result, buffer);
}
inline void ensuref(bool holds, const char* format = "ensure failed", ...) {
    if (!holds) quitf(_fail, "%s", format);
}
inline void ensure(bool holds) { ensuref(holds); }
inline void setName(const char*, ...) {}
inline void registerTestlibCmd(int argc, char** argv) {
    if (argc < 4) quitf(_fail, "three files are expected");
    inf.name = "input", ouf.name = "output", ans.name = "answer";
    ouf.is_output = true;
    inf.open(argv[1]), ouf.open(argv[2]), ans.open(argv[3]);
}
inline bool doubleCompare(double wanted, double got, double most) {
    if (!std::isfinite(got)) return false;
    return std::fabs(wanted - got) <= most * std::max(1.0, std::fabs(wanted)) + 1e-15;
}
inline double doubleDelta(double wanted, double got) {
    double apart = std::fabs(wanted - got);
    return std::min(apart, apart / std::max(std::fabs(wanted), 1e-300));
}
inline std::string compress(const std::string& text) { return text.substr(0, 64); }
template <typename T>
inline std::string vtos(const T& value) {
    std::ostringstream stream;
    stream << value;
    return stream.str();
}
inline std::string englishEnding(int n) {
    if (n / 10 % 10 == 1) return "th";
    return n % 10 == 1 ? "st" : n % 10 == 2 ? "nd" : n % 10 == 3 ? "rd" : "th";
}
inline std::string upperCase(std::string s) { for (char& c : s) c = std::toupper(c); return s; }
inline std::string lowerCase(std::string s) { for (char& c : s) c = std::tolower(c); return s; }
