// Golden vectors (docs/mathematics.md): whoever passes them addresses the same rows as
// the official code.
#include "models/ngram.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "kernels/core/tensor.h"

namespace mneme {
namespace {

using Ids = std::vector<int64_t>;

EngramConfig Paper(int64_t base) {
  EngramConfig config;
  config.blocks = {1, 14};
  config.d_mem = 1280;
  config.vocab_size = {base};
  return config;
}

TEST(NumpyGenerator, SeedSequenceGivesNumpysState) {
  EXPECT_EQ(NumpySeed(0), (std::array<uint64_t, 4>{0xdb2cd7e7b0f478be, 0xabf4641a2c71ba49,
                                                   0x20c6ed6d9d7b8d41, 0x2c4099de223c39d4}));
}

TEST(NumpyGenerator, RawOutputsAreNumpys) {
  EXPECT_EQ(NumpyRaw(0, 4), (std::vector<uint64_t>{11749869230777074271u, 4976686463289251617u,
                                                   755828109848996024u, 304881062738325533u}));
  EXPECT_EQ(NumpyRaw(10007, 4),
            (std::vector<uint64_t>{15187255322829266483u, 959186003677246517u, 7126631698937927467u,
                                   14663106486854050627u}));
}

TEST(NumpyGenerator, SeedsAboveOneWordUseBothWords) {
  EXPECT_NE(NumpySeed(uint64_t{1} << 32), NumpySeed(0));
  EXPECT_NE(NumpySeed((uint64_t{1} << 32) + 5), NumpySeed(5));
}

// A bound just above 2^63 / 2 rejects nearly half of the raw outputs' low words: every draw must
// stay inside, and the draws must skip exactly the raw outputs that Lemire's test refuses.
TEST(NumpyGenerator, BoundedDrawsRedrawAsLemireSays) {
  const int64_t bound = (int64_t{1} << 62) + (int64_t{1} << 61) + 12345;
  const Ids draws = NumpyIntegers(7, bound, 200);
  const auto raw = NumpyRaw(7, 1000);
  const auto range = static_cast<uint64_t>(bound);
  size_t at = 0;
  int64_t refused = 0;
  for (const int64_t draw : draws) {
    for (;; ++at, ++refused) {
      __extension__ const auto product = static_cast<unsigned __int128>(raw[at]) * range;
      if (static_cast<uint64_t>(product) < (~uint64_t{0} - (range - 1)) % range) continue;
      EXPECT_EQ(draw, static_cast<int64_t>(product >> 64));
      break;
    }
    ++at;
    EXPECT_GE(draw, 0);
    EXPECT_LT(draw, bound);
  }
  EXPECT_GT(refused, 0);
}

TEST(NgramMultipliers, AreTheGoldenOnes) {
  EXPECT_EQ(NgramMultipliers(0, 1, 99092, 4),
            (Ids{76632096046245, 4839876093313, 35959672319349, 73987337458391}));
  EXPECT_EQ(NgramMultipliers(0, 14, 99092, 4),
            (Ids{67716810739261, 51510806800915, 30921347202721, 82619226485591}));
  EXPECT_EQ(NgramMultipliers(0, 2, 99092, 4),
            (Ids{76507469730479, 37097805264573, 22647385550623, 71424551940645}));
  EXPECT_EQ(NgramMultipliers(0, 15, 99092, 4),
            (Ids{28919099099511, 56020370062535, 53929037264533, 32940167562555}));
  EXPECT_EQ(NgramMultipliers(0, 1, 129280, 3),
            (Ids{58737837727525, 3709723095905, 27562777300965}));
  EXPECT_EQ(NgramMultipliers(0, 2, 129280, 3),
            (Ids{58642312736175, 28435146343417, 17359024821955}));
  EXPECT_EQ(NgramMultipliers(0, 14, 129280, 3),
            (Ids{51904348776103, 39482587155911, 23700944747927}));
  EXPECT_EQ(NgramMultipliers(0, 15, 129280, 3),
            (Ids{22166238923025, 42939128327945, 41336139856257}));
  EXPECT_EQ(NgramMultipliers(0, 1, 98634, 3), (Ids{76987931762015, 4862349715499, 36126648513383}));
  EXPECT_EQ(NgramMultipliers(0, 14, 98634, 3),
            (Ids{68031248958521, 51749993587569, 31064928290569}));
  EXPECT_EQ(NgramMultipliers(0, 15, 98634, 3),
            (Ids{29053382889965, 56280496687115, 54179452933239}));
}

TEST(NgramMultipliers, SeedAndLayerEnterAsOneSum) {
  EXPECT_EQ(NgramMultipliers(10007, 0, 129280, 3), NgramMultipliers(0, 1, 129280, 3));
  EXPECT_NE(NgramMultipliers(1, 1, 129280, 3), NgramMultipliers(0, 1, 129280, 3));
}

TEST(NgramMultipliers, ProductsWithAnyCanonicalIdStayBelow2To63) {
  for (const int64_t vocab : {1, 258, 32000, 129280}) {
    for (const int64_t m : NgramMultipliers(3, 5, vocab, 6)) {
      EXPECT_EQ(m % 2, 1);
      int64_t product;
      EXPECT_FALSE(__builtin_mul_overflow(m, vocab - 1, &product));
    }
  }
}

bool TrialPrime(uint64_t n) {
  if (n < 2) return false;
  for (uint64_t d = 2; d * d <= n; ++d)
    if (n % d == 0) return false;
  return true;
}

TEST(IsPrime, AgreesWithTrialDivision) {
  for (uint64_t n = 0; n < 20000; ++n) EXPECT_EQ(IsPrime(n), TrialPrime(n)) << n;
  for (uint64_t n = 3200000000; n < 3200000100; ++n) EXPECT_EQ(IsPrime(n), TrialPrime(n)) << n;
}

TEST(IsPrime, IsNotFooledByPseudoprimesAndLargeNumbers) {
  for (const uint64_t n : {561u, 3215031751u})
    EXPECT_FALSE(IsPrime(n));                     // Carmichael; strong to 2,3,5,7
  EXPECT_FALSE(IsPrime(3825123056546413051u));    // strong to the bases 2 .. 23
  EXPECT_TRUE(IsPrime((uint64_t{1} << 61) - 1));  // Mersenne
  EXPECT_TRUE(IsPrime(18446744073709551557u));    // largest below 2^64
  EXPECT_FALSE(IsPrime(4294967291u * uint64_t{4294967279u}));
}

// Sub-tables with abbreviated later entries: the published tables give the last three digits.
void ExpectPrimes(const Ids& got, const Ids& want) { EXPECT_EQ(got, want); }

TEST(NgramPrimes, PaperSizes) {
  const auto p27 = NgramPrimes(Paper(2262400));
  ASSERT_EQ(p27.size(), 2u);
  ExpectPrimes(p27[0], {2262409, 2262413, 2262437, 2262443, 2262451, 2262457, 2262461, 2262467,
                        2262499, 2262521, 2262529, 2262541, 2262563, 2262569, 2262593, 2262619});
  ExpectPrimes(p27[1], {2262629, 2262641, 2262643, 2262679, 2262713, 2262727, 2262761, 2262769,
                        2262811, 2262817, 2262823, 2262833, 2262847, 2262851, 2262857, 2262859});
  const auto p40 = NgramPrimes(Paper(7239680));
  ExpectPrimes(p40[0], {7239691, 7239719, 7239721, 7239751, 7239823, 7239839, 7239847, 7239851,
                        7239857, 7239863, 7239887, 7239899, 7239913, 7239919, 7239923, 7239961});
  ExpectPrimes(p40[1], {7239979, 7240001, 7240031, 7240033, 7240063, 7240069, 7240073, 7240091,
                        7240097, 7240109, 7240117, 7240133, 7240139, 7240153, 7240157, 7240183});
  const auto demo = NgramPrimes(Paper(646400));
  ExpectPrimes(demo[0], {646403, 646411, 646421, 646423, 646433, 646453, 646519, 646523, 646537,
                         646543, 646549, 646571, 646573, 646577, 646609, 646619});
  ExpectPrimes(demo[1], {646631, 646637, 646643, 646669, 646687, 646721, 646757, 646771, 646781,
                         646823, 646831, 646837, 646843, 646859, 646873, 646879});
}

TEST(NgramPrimes, RowCounts) {
  const auto rows = [](const EngramConfig& config) {
    Ids out;
    for (const NgramHash& hash : MakeNgramHashes(config, 129280, 2)) out.push_back(TableRows(hash));
    return out;
  };
  EXPECT_EQ(rows(Paper(646400)), (Ids{10344164, 10348242}));
  EXPECT_EQ(rows(Paper(2262400)), (Ids{36199972, 36204260}));
  EXPECT_EQ(rows(Paper(7239680)), (Ids{115837464, 115841428}));
  EngramConfig v41 = Paper(16000000);
  v41.orders = {2, 3, 4};
  EXPECT_EQ(rows(v41), (Ids{384006168, 384016682}));
}

TEST(NgramPrimes, OneBaseAnOrder) {
  EngramConfig config = Paper(0);
  config.vocab_size = {100, 1000};
  config.heads = 2;
  EXPECT_EQ(NgramPrimes(config),
            (std::vector<Ids>{{101, 103, 1009, 1013}, {107, 109, 1019, 1021}}));
}

TEST(NgramPrimes, AreDrawnInBlockOrderWhateverTheConfigsOrder) {
  EngramConfig config = Paper(2262400), turned = config;
  turned.blocks = {14, 1};
  const auto straight = NgramPrimes(config), reversed = NgramPrimes(turned);
  EXPECT_EQ(reversed[0], straight[1]);
  EXPECT_EQ(reversed[1], straight[0]);
}

TEST(NgramPrimes, HundredBillionRows) {
  const auto hashes = MakeNgramHashes(Paper(3125000000), 32000, 1);
  std::set<int64_t> distinct;
  int64_t rows = 0;
  for (const NgramHash& hash : hashes) {
    rows += TableRows(hash);
    distinct.insert(hash.primes.begin(), hash.primes.end());
    for (const int64_t p : hash.primes) EXPECT_TRUE(TrialPrime(static_cast<uint64_t>(p))) << p;
    EXPECT_EQ(hash.offsets.back() + hash.primes.back(), TableRows(hash));
    EXPECT_GT(hash.offsets.back(), int64_t{1} << 32);
  }
  EXPECT_EQ(distinct.size(), 32u);
  EXPECT_GE(rows, 100000000000);
}

class Addresses : public testing::Test {
 protected:
  static constexpr int64_t kVocab = 129280;
  // Rows of one layer of Engram-27B under identity compression, pad' = 2.
  static std::vector<Ids> Rows(size_t layer, std::vector<int32_t> doc_start = {}) {
    std::vector<int32_t> tokens = {0, 1, 2, 100, 129279, 77, 77, 77}, map(kVocab);
    std::iota(map.begin(), map.end(), 0);
    if (doc_start.empty()) doc_start.assign(tokens.size(), 0);
    const auto count = static_cast<int64_t>(tokens.size());
    const NgramHash hash = MakeNgramHashes(Paper(2262400), kVocab, 2)[layer];
    Allocator allocator{Device{}};
    Stream stream(Device{}, allocator);
    Ids flat(tokens.size() * 16);
    Tensor rows = Tensor::Wrap(flat.data(), DType::kI64, {count, 16});
    cpu::NgramRows(stream, hash, Tensor::Wrap(tokens.data(), DType::kI32, {count}),
                   Tensor::Wrap(map.data(), DType::kI32, {kVocab}), count,
                   Tensor::Wrap(doc_start.data(), DType::kI32, {count}), rows);
    std::vector<Ids> out;
    for (size_t t = 0; t < tokens.size(); ++t) {
      const auto begin = flat.begin() + static_cast<int64_t>(t) * 16;
      out.emplace_back(begin, begin + 16);
    }
    return out;
  }
  // Addresses inside the sub-tables.
  static Ids Local(const Ids& rows, size_t layer) {
    const NgramHash hash = MakeNgramHashes(Paper(2262400), kVocab, 2)[layer];
    Ids out = rows;
    for (size_t k = 0; k < out.size(); ++k) out[k] -= hash.offsets[k];
    return out;
  }
};

TEST_F(Addresses, OfBlock1) {
  const auto rows = Rows(0);
  EXPECT_EQ(Local(rows[0], 0),
            (Ids{308805, 765503, 1244262, 1929825, 581626, 1267435, 1724701, 148223, 285214,
                 1120027, 192205, 1065713, 1921434, 99833, 1871841, 35218}));
  EXPECT_EQ(Local(rows[1], 0),
            (Ids{1079254, 1300176, 370999, 706378, 1154838, 1492149, 1717483, 2056174, 1949232,
                 981812, 2070185, 309323, 1607324, 727463, 1734285, 187345}));
  EXPECT_EQ(Local(rows[4], 0),
            (Ids{848347, 1045297, 1395880, 2105305, 1776175, 571945, 282379, 617287, 756443, 281374,
                 2132239, 35117, 834681, 1776877, 1043459, 368290}));
  EXPECT_EQ(rows[4],
            (Ids{848347, 3307706, 5920702, 8892564, 10825877, 11884098, 13856989, 16454358,
                 18855981, 20643411, 24756797, 24922204, 27984309, 31189068, 32718219, 34305643}));
  EXPECT_EQ(Local(rows[7], 0),
            (Ids{1424651, 299350, 965695, 735668, 1288265, 1215964, 451163, 491520, 1765547, 939983,
                 115251, 1438894, 646993, 639760, 1505428, 1795866}));
}

TEST_F(Addresses, OfBlock14) {
  const auto rows = Rows(1);
  EXPECT_EQ(Local(rows[0], 1),
            (Ids{1444846, 1236503, 1579318, 983155, 79685, 250431, 1660034, 798957, 1376913, 968687,
                 562141, 1396853, 1215604, 195707, 2061542, 421004}));
  EXPECT_EQ(Local(rows[4], 1),
            (Ids{1947340, 1086741, 1041871, 161635, 1129360, 1550600, 1258425, 1640078, 97682,
                 1991237, 882919, 1916975, 358142, 1756470, 971610, 1298963}));
  EXPECT_EQ(rows[4],
            (Ids{1947340, 3349370, 5567141, 6949548, 10179952, 12863905, 14834457, 17478871,
                 18199244, 22355610, 23510109, 26806988, 27510988, 31172163, 32650154, 35240364}));
  EXPECT_EQ(Local(rows[7], 1),
            (Ids{2012405, 618499, 1148091, 2006231, 705394, 487558, 83843, 480514, 2123731, 42944,
                 234928, 2085590, 1102464, 508263, 756685, 1595992}));
}

// A new document at t4: its look-back is padded (docs/mathematics.md).
TEST_F(Addresses, OfANewDocument) {
  const auto rows = Rows(0, {0, 0, 0, 0, 4, 4, 4, 4}), plain = Rows(0);
  const Ids local = Local(rows[4], 0);
  EXPECT_EQ((Ids{local.begin(), local.begin() + 3}), (Ids{518862, 1778651, 1761797}));
  const NgramHash hash = MakeNgramHashes(Paper(2262400), kVocab, 2)[0];
  const int64_t mixes[2][2] = {{7593561601849457433, 7593616706934793427},
                               {484073815450205118, 484124525708158068}};
  for (size_t t = 0; t < 2; ++t)
    for (size_t k = 0; k < 16; ++k)
      EXPECT_EQ(rows[4 + t][k], mixes[t][k / 8] % hash.primes[k] + hash.offsets[k]);
  EXPECT_EQ(rows[3], plain[3]);
  EXPECT_EQ((Ids{rows[5].begin(), rows[5].begin() + 8}),
            (Ids{plain[5].begin(), plain[5].begin() + 8}));
  EXPECT_NE(rows[5], plain[5]);
  EXPECT_EQ(rows[6], plain[6]);
}

}  // namespace
}  // namespace mneme
