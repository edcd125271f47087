// Writes the topics whose segments are the fixtures of this folder; see README.md.

import java.util.*;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.header.Header;

public class GoldenBatches {
    static final long NOW = 1_760_000_000_000L;
    static String bootstrap;

    public static void main(String[] args) throws Exception {
        bootstrap = args[0];
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            List<NewTopic> topics = new ArrayList<>();
            for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
                topics.add(new NewTopic(codec, 1, (short) 1));
            }
            topics.add(new NewTopic("transactions", 1, (short) 1));
            topics.add(new NewTopic("log-append-time", 1, (short) 1)
                .configs(Map.of("message.timestamp.type", "LogAppendTime")));
            for (NewTopic topic : topics) {
                Map<String, String> configs = new HashMap<>();
                if (topic.configs() != null) configs.putAll(topic.configs());
                configs.put("retention.ms", "-1");
                topic.configs(configs);
            }
            admin.createTopics(topics).all().get();
        }
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            try (var producer = producer(codec, null)) {
                records(producer, codec);
            }
        }
        try (var producer = producer("gzip", null)) {
            records(producer, "log-append-time");
        }
        transactions();
    }

    static KafkaProducer<byte[], byte[]> producer(String codec, String transactionalId) {
        Properties config = new Properties();
        config.put("bootstrap.servers", bootstrap);
        config.put("compression.type", codec);
        config.put("linger.ms", "60000");
        config.put("batch.size", "1000000");
        if (transactionalId != null) config.put("transactional.id", transactionalId);
        var bytes = new org.apache.kafka.common.serialization.ByteArraySerializer();
        return new KafkaProducer<>(config, bytes, bytes);
    }

    // A batch of one record, one of 100 small ones of every shape, and one of a value over several blocks.
    static void records(KafkaProducer<byte[], byte[]> producer, String topic) {
        send(producer, topic, 0, "alone", "alone");
        producer.flush();
        for (int n = 1; n <= 100; n++) {
            String key = n % 7 == 0 ? null : "key-" + n;
            String value = n % 11 == 0 ? null : n % 13 == 0 ? "" : "value " + n;
            send(producer, topic, n, key, value);
        }
        producer.flush();
        StringBuilder lines = new StringBuilder();
        // Uncompressed it would only make the fixture large.
        int length = topic.equals("none") ? 100 : 200_000;
        for (int line = 0; lines.length() < length; line++) lines.append("line ").append(line % 1000).append('\n');
        send(producer, topic, 101, "long", lines.toString());
        send(producer, topic, 102, "after", "after");
        producer.flush();
    }

    static void send(KafkaProducer<byte[], byte[]> producer, String topic, int n, String key, String value) {
        List<Header> headers = new ArrayList<>();
        if (n % 3 == 0) {
            headers.add(new RecordHeader("repeated", bytes("first")));
            headers.add(new RecordHeader("repeated", bytes("second")));
            headers.add(new RecordHeader("null", (byte[]) null));
        }
        producer.send(new ProducerRecord<>(topic, 0, NOW + n, bytes(key), bytes(value), headers));
    }

    static byte[] bytes(String text) {
        return text == null ? null : text.getBytes(StandardCharsets.UTF_8);
    }

    // Two producers at once; aborted and committed transactions, and a record of none in between.
    static void transactions() throws Exception {
        String topic = "transactions";
        try (var one = producer("zstd", "one"); var two = producer("none", "two"); var plain = producer("none", null)) {
            one.initTransactions();
            two.initTransactions();
            one.beginTransaction();
            two.beginTransaction();
            send(one, topic, 0, "one", "aborted");
            one.flush();
            send(two, topic, 1, "two", "committed");
            two.flush();
            send(plain, topic, 2, "plain", "committed");
            plain.flush();
            send(one, topic, 3, "one", "aborted");
            one.flush();
            one.abortTransaction();
            two.commitTransaction();
            one.beginTransaction();
            send(one, topic, 4, "one", "committed");
            one.commitTransaction();
            two.beginTransaction();
            send(two, topic, 5, "two", "aborted");
            two.flush();
            two.abortTransaction();
            send(plain, topic, 6, "plain", "committed");
            plain.flush();
        }
    }
}
