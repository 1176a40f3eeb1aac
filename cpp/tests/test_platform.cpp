#include "l2m/base/platform.hpp"

#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "check.hpp"

namespace l2m::test {
namespace {

/// Simulated system with cgroups.
class System {
 public:
  System() { CHECK(mkdtemp(folder_.data()) != nullptr); }

  System& write(const std::string& path, const std::string& content) {
    for (std::size_t at = path.find('/'); at != std::string::npos; at = path.find('/', at + 1))
      (void)mkdir((folder_ + "/" + path.substr(0, at)).c_str(), 0700);
    std::FILE* const file = std::fopen((folder_ + "/" + path).c_str(), "w");
    CHECK(file != nullptr);
    CHECK(std::fwrite(content.data(), 1, content.size(), file) == content.size());
    std::fclose(file);
    return *this;
  }

  [[nodiscard]] int cpus() const { return cgroup_cpus(folder_ + "/groups", folder_ + "/membership"); }

 private:
  std::string folder_ = "/tmp/l2m_test_platform.XXXXXX";
};

void test_cpu_quotas_of_cgroups() {
  CHECK(System().cpus() == 0);
  CHECK(System().write("membership", "0::/\n").write("groups/cpu.max", "max 100000\n").cpus() == 0);
  CHECK(System().write("membership", "0::/\n").write("groups/cpu.max", "150000 100000\n").cpus() == 2);
  CHECK(System().write("membership", "0::/a/b\n").write("groups/a/b/cpu.max", "300000 100000\n").cpus() == 3);
  CHECK(System().write("membership", "0::/a/b\n").write("groups/a/cpu.max", "50000 100000\n").cpus() == 1);
  CHECK(System()  // the tightest quota of its parents applies
            .write("membership", "0::/a/b")
            .write("groups/a/b/cpu.max", "800000 100000")
            .write("groups/a/cpu.max", "400000 100000\n")
            .write("groups/cpu.max", "max 100000\n")
            .cpus() == 4);
  CHECK(System()  // a container that does not see the group of the host
            .write("membership", "0::/../../host\n")
            .write("groups/cpu.max", "200000 100000\n")
            .cpus() == 2);
  CHECK(System()  // version 1
            .write("membership", "4:memory:/x\n3:cpu,cpuacct:/a\n")
            .write("groups/cpu,cpuacct/a/cpu.cfs_quota_us", "250000\n")
            .write("groups/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n")
            .cpus() == 3);
  CHECK(System()
            .write("membership", "1:cpu:/\n0::/\n")
            .write("groups/cpu/cpu.cfs_quota_us", "-1\n")
            .write("groups/cpu/cpu.cfs_period_us", "100000\n")
            .cpus() == 0);
  for (const char* nonsense : {"", "max", "0 0", "-5 100000", "100000", "a b", "1e400 1"})
    CHECK(System().write("membership", "0::/\n").write("groups/cpu.max", nonsense).cpus() == 0);
  CHECK(System().write("membership", "0::/\n").write("groups/cpu.max", "1e300 1e-300\n").cpus() >= 0);
  for (const char* nonsense : {"", ":", "::", "0", "no colons at all", "\n\n0:\n"})
    CHECK(System().write("membership", nonsense).write("groups/cpu.max", "junk").cpus() == 0);
}

}  // namespace
}  // namespace l2m::test

int main() {
  l2m::test::test_cpu_quotas_of_cgroups();
  return l2m::usable_cpus() >= 1 ? 0 : 1;
}
