import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Random;
import java.util.Set;
import java.util.UUID;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
import org.apache.kafka.common.utils.AppInfoParser;

/**
 * Prints partitions.json: where the Java client puts 1,000 keys. Run with a JDK of 17 or later:
 * java -cp kafka-clients-4.3.0.jar:slf4j-api-1.7.36.jar PartitionTable.java > partitions.json
 */
public class PartitionTable {
    private static final int[] COUNTS = {1, 3, 12, 100};
    private static final int KEYS = 1000;
    private static final String[] ALPHABETS = {
        "abcdefghijklmnopqrstuvwxyz0123456789-_",
        " !\"#$%&'()*+,./:;<=>?@[\\]^`{|}~",
        "äöüßéèñçøåÆŁšžğİ",
        "проектдереводанные",
        "項目資料流程圖日本語한국어",
        "😀🚀🧪👩🏽‍🔬𝔘𐍈",
    };

    public static void main(String[] args) {
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        List<String> rows = new ArrayList<>();
        for (String key : keys()) {
            byte[] bytes = key.getBytes(StandardCharsets.UTF_8);
            StringBuilder row = new StringBuilder("[").append(json(key));
            for (int count : COUNTS) {
                row.append(",").append(BuiltInPartitioner.partitionForKey(bytes, count));
            }
            rows.add(row.append("]").toString());
        }
        out.println("{\"made_by\":\"PartitionTable.java, kafka-clients "
            + AppInfoParser.getVersion() + "\",");
        out.println("\"partition_counts\":[1,3,12,100],");
        out.println("\"rows\":[");
        out.println(String.join(",\n", rows));
        out.println("]}");
        out.flush();
    }

    private static Set<String> keys() {
        Random random = new Random(20260101);
        Set<String> keys = new LinkedHashSet<>(List.of("", " ", "0", "a", "p", "\u0000", "\u007f"));
        for (int i = 0; i < 150; i++) {
            keys.add("project-" + i);
            keys.add(Integer.toString(random.nextInt()));
            keys.add(new UUID(random.nextLong(), random.nextLong()).toString());
        }
        // Every length of the last, incomplete group of four bytes, in every alphabet.
        for (int length = 1; length <= 24; length++) {
            for (String alphabet : ALPHABETS) {
                for (int i = 0; i < 3; i++) {
                    keys.add(text(random, alphabet, length));
                }
            }
        }
        for (int i = 0; i < 30; i++) {
            keys.add(text(random, ALPHABETS[i % ALPHABETS.length], 100 + random.nextInt(60)));
        }
        while (keys.size() < KEYS) {
            keys.add(text(random, ALPHABETS[0], 1 + random.nextInt(12)));
        }
        return keys;
    }

    private static String text(Random random, String alphabet, int length) {
        int[] points = alphabet.codePoints().toArray();
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < length; i++) {
            text.appendCodePoint(points[random.nextInt(points.length)]);
        }
        return text.toString();
    }

    private static String json(String key) {
        StringBuilder text = new StringBuilder("\"");
        key.codePoints().forEach(point -> {
            if (point == '"' || point == '\\') {
                text.append('\\').appendCodePoint(point);
            } else if (point < 0x20 || point == 0x7f) {
                text.append(String.format("\\u%04x", point));
            } else {
                text.appendCodePoint(point);
            }
        });
        return text.append("\"").toString();
    }
}
