// Sends plain data as bytes, and calls functions across two processes. It precedes everything else
// in a translation unit, and adds only the names of two small headers and these two namespaces.
//
//     bool, integers      8 bytes             string              size, bytes
//     float, double       8 bytes             any container       size, elements
//     pair, optional      their parts         map                 size, keys and values
#pragma once
#include <type_traits>
#include <utility>

namespace selfreg_channel {  // tests.cpp and program.cpp define these
using Size = unsigned long;
void put(const void* data, Size size);
void get(void* data, Size size);  // reports a failure by `fail` if too few bytes are left
Size size_of_rest();
[[noreturn]] void fail(const char* reason);
void ask();   // sends what `put` collected, and receives what `get` returns
void done();  // checks that everything received has been read
}  // namespace selfreg_channel

namespace selfreg_carry {
using selfreg_channel::Size;

template <class T> using Plain = std::remove_cv_t<std::remove_reference_t<T>>;
template <class...> constexpr bool never = false;

template <class T, class = void> constexpr bool is_range = false;
template <class T>
constexpr bool is_range<T, std::void_t<typename T::value_type, decltype(std::declval<T&>().begin()),
                                       decltype(std::declval<T&>().size())>> = true;
template <class T, class = void> constexpr bool is_string = false;
template <class T>
constexpr bool is_string<
    T, std::void_t<typename T::traits_type, decltype(std::declval<T&>().c_str())>> =
    sizeof(typename T::value_type) == 1;
template <class T, class = void> constexpr bool is_keyed = false;
template <class T> constexpr bool is_keyed<T, std::void_t<typename T::key_type>> = true;
template <class T, class = void> constexpr bool is_map = false;
template <class T> constexpr bool is_map<T, std::void_t<typename T::mapped_type>> = true;
template <class T, class = void> constexpr bool can_grow = false;
template <class T>
constexpr bool can_grow<T, std::void_t<decltype(std::declval<T&>().push_back(
                               std::declval<typename T::value_type>()))>> = true;
template <class T, class = void> constexpr bool is_optional = false;
template <class T>
constexpr bool is_optional<
    T, std::void_t<typename T::value_type, decltype(std::declval<T&>().has_value())>> = true;
template <class T> constexpr bool is_pair = false;
template <class A, class B> constexpr bool is_pair<std::pair<A, B>> = true;
template <class T> constexpr bool is_number =
    std::is_integral_v<T> || std::is_same_v<T, float> || std::is_same_v<T, double>;

template <class T> void put(const T& value) {
    if constexpr (std::is_integral_v<T>) {
        const long long number = static_cast<long long>(value);
        selfreg_channel::put(&number, sizeof number);
    } else if constexpr (is_number<T>) {
        const double number = value;
        selfreg_channel::put(&number, sizeof number);
    } else if constexpr (is_string<T>) {
        const Size size = value.size();
        selfreg_channel::put(&size, sizeof size);
        selfreg_channel::put(value.data(), size);
    } else if constexpr (is_pair<T>) {
        put(value.first);
        put(value.second);
    } else if constexpr (is_optional<T>) {
        put(value.has_value());
        if (value.has_value()) put(*value);
    } else if constexpr (is_range<T>) {
        put(static_cast<Size>(value.size()));
        for (auto&& element : value) put<typename T::value_type>(element);
    } else {
        static_assert(never<T>, "no value of this type can be carried from process to process");
    }
}

template <class T> T get() {
    if constexpr (std::is_integral_v<T>) {
        long long number;
        selfreg_channel::get(&number, sizeof number);
        const T value = static_cast<T>(number);
        if (static_cast<long long>(value) != number)
            selfreg_channel::fail("a number does not fit its type");
        return value;
    } else if constexpr (is_number<T>) {
        double number;
        selfreg_channel::get(&number, sizeof number);
        return static_cast<T>(number);
    } else if constexpr (is_pair<T>) {
        auto first = get<Plain<typename T::first_type>>();
        auto second = get<Plain<typename T::second_type>>();
        return T(std::move(first), std::move(second));
    } else if constexpr (is_optional<T>) {
        if (!get<bool>()) return T();
        return T(get<typename T::value_type>());
    } else if constexpr (is_string<T> || is_range<T>) {
        const Size size = get<Size>();
        // Each element takes at least one byte, so that the announced size cannot exceed the rest.
        if (size > selfreg_channel::size_of_rest()) selfreg_channel::fail("a size is too large");
        T values{};
        if constexpr (is_string<T>) {
            values.resize(size);
            if (size) selfreg_channel::get(&values[0], size);
        } else if constexpr (is_map<T>) {
            for (Size i = 0; i < size; i++) {
                auto key = get<typename T::key_type>();
                auto value = get<typename T::mapped_type>();
                values.emplace(std::move(key), std::move(value));
            }
        } else if constexpr (is_keyed<T>) {
            for (Size i = 0; i < size; i++) values.insert(get<typename T::value_type>());
        } else if constexpr (can_grow<T>) {
            for (Size i = 0; i < size; i++) values.push_back(get<typename T::value_type>());
        } else {
            if (size != values.size()) selfreg_channel::fail("an array has another size");
            for (auto& value : values) value = get<typename T::value_type>();
        }
        return values;
    } else {
        static_assert(never<T>, "no value of this type can be carried from process to process");
    }
}

template <class A>
constexpr bool is_changed =
    std::is_lvalue_reference_v<A> && !std::is_const_v<std::remove_reference_t<A>>;

// --- In the process of the tests: a function that the program has --------------------------------

template <class A> void take_back(std::remove_reference_t<A>& argument) {
    if constexpr (is_changed<A>) argument = get<Plain<A>>();
}

// A holds the declared types. The arguments are the stub's own parameters.
template <class R, class... A> R call(std::remove_reference_t<A>&... arguments) {
    static_assert(!std::is_reference_v<R>, "no reference can be carried from process to process");
    (put(static_cast<const Plain<A>&>(arguments)), ...);
    selfreg_channel::ask();
    if constexpr (std::is_void_v<R>) {
        (take_back<A>(arguments), ...);
        selfreg_channel::done();
    } else {
        R result = get<R>();
        (take_back<A>(arguments), ...);
        selfreg_channel::done();
        return result;
    }
}

// --- In the process of the program: an answer to such a call -------------------------------------

// Converts to the declared type. A conversion to an integer must be exact: 5.5 is not an int.
template <class To, class From> To convert(const From& value) {
    if constexpr (std::is_same_v<To, From>) {
        return value;
    } else if constexpr (is_number<To> && std::is_arithmetic_v<From>) {
        const To number = static_cast<To>(value);
        const bool is_exact =
            static_cast<From>(number) == value && (number < 0) == (value < 0);
        if (!std::is_floating_point_v<To> && !is_exact)
            selfreg_channel::fail("the result does not fit its declared type");
        return number;
    } else if constexpr (std::is_convertible_v<const From&, To>) {
        return value;
    } else if constexpr (is_pair<To> && is_pair<From>) {
        return To(convert<typename To::first_type>(value.first),
                  convert<typename To::second_type>(value.second));
    } else if constexpr (is_range<To> && is_range<From> && is_map<To> == is_map<From> &&
                         !is_string<To> && !is_string<From>) {
        To values{};
        for (auto&& element : value) {
            if constexpr (is_map<To>)
                values.emplace(convert<typename To::key_type>(element.first),
                               convert<typename To::mapped_type>(element.second));
            else
                values.insert(values.end(),
                              convert<typename To::value_type>(
                                  static_cast<const typename From::value_type&>(element)));
        }
        return values;
    } else {
        static_assert(never<To>, "the function returns another type than the problem declares");
    }
}

// Converts to the program's parameter type, even if that differs from the declared one.
template <class T> struct Loose {
    const T& value;
    template <class To> operator To() const { return convert<To>(value); }
};

template <int n> struct Rank : Rank<n - 1> {};
template <> struct Rank<0> {};

template <class F, class... T> auto invoke(Rank<3>, F& f, T&... x) -> decltype(f(x...)) { return f(x...); }
template <class F, class... T> auto invoke(Rank<2>, F& f, T&... x) -> decltype(f(std::move(x)...)) {
    return f(std::move(x)...);
}
template <class F, class... T> auto invoke(Rank<1>, F& f, T&... x) -> decltype(f(Loose<T>{x}...)) {
    return f(Loose<T>{x}...);
}
template <class F, class... T> void invoke(Rank<0>, F&, T&...) {
    static_assert(never<F>, "the program defines no function that takes the declared arguments");
}

template <class... A> struct Arguments {};
template <class A, class... Rest> struct Arguments<A, Rest...> {
    Plain<A> first = get<Plain<A>>();
    Arguments<Rest...> rest{};
};

template <class F> void unpack(Arguments<>&, F f) { f(); }
template <class A, class... Rest, class F> void unpack(Arguments<A, Rest...>& all, F f) {
    unpack(all.rest, [&](auto&... rest) { f(all.first, rest...); });
}

template <class A> void give_back(const Plain<A>& argument) {
    if constexpr (is_changed<A>) put(argument);
}

template <class R, class... A, class F> void answer(R (*)(A...), F f) {
    Arguments<A...> arguments;
    selfreg_channel::done();
    unpack(arguments, [&](auto&... x) {
        using Result = decltype(invoke(Rank<3>(), f, x...));
        if constexpr (std::is_void_v<R> || std::is_void_v<Result>) {
            invoke(Rank<3>(), f, x...);
            static_assert(std::is_void_v<R>, "the function returns nothing, and is declared to");
        } else if constexpr (std::is_same_v<R, Plain<Result>>) {
            put<R>(invoke(Rank<3>(), f, x...));
        } else {
            put(convert<R>(static_cast<const Plain<Result>&>(invoke(Rank<3>(), f, x...))));
        }
        (give_back<A>(x), ...);
    });
}
}  // namespace selfreg_carry
